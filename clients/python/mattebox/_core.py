"""What both clients share: everything but the waiting."""

from __future__ import annotations

import math

import grpc

from mattebox.errors import MatteboxError, from_status

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 5.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_FOR_EVER_S = 1e9
_MAX_PORT = 65535
_SCHEMES = ("unix:", "dns:", "ipv4:", "ipv6:", "unix-abstract:", "vsock:", "xds:")

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


def checked_address(address: str) -> str:
    """Raises ValueError for a port that is missing or can't be: gRPC would take another one in silence."""
    if "://" in address or address.startswith(_SCHEMES):
        return address
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise ValueError(f"address {address!r} must be HOST:PORT with a port of 1 to {_MAX_PORT}")
    return address


def checked_timeout(timeout_s: float | None) -> float | None:
    """None waits for ever, and so does what is longer than gRPC can count. Raises ValueError for NaN."""
    if timeout_s is None or timeout_s > _FOR_EVER_S:
        return None
    if math.isnan(timeout_s):
        raise ValueError("timeout is not a number")
    return timeout_s
