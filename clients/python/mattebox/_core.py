"""What both clients share: everything but the waiting."""

from __future__ import annotations

import grpc

from mattebox.errors import MatteboxError, from_status

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 5.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024

# The health service's whole protocol as far as this client needs it: an empty request asks for the server as a whole,
# and SERVING is field 1, a varint of value 1. The package that has the generated code would weigh more than the client.
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""
HEALTH_SERVING = b"\x08\x01"


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options of a channel: gRPC's own limit of 4 MiB is below a photo."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]


def error_of(error: grpc.RpcError | grpc.aio.AioRpcError) -> MatteboxError:
    """The SDK's error of gRPC's, which is the failed call itself."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        raise error
    initial, trailing = error.initial_metadata() or (), error.trailing_metadata() or ()
    return from_status(error.code(), error.details() or "", initial, trailing)
