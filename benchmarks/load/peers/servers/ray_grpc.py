"""The gRPC service of the Ray server, without generated code. Ray's proxy imports `add_to_server` by its name."""

from google.protobuf.wrappers_pb2 import BytesValue
from grpc import Server, method_handlers_generic_handler, unary_unary_rpc_method_handler

SERVICE, METHOD = "benchmark.Cutouts", "Remove"


def add_to_server(servicer: object, server: Server) -> None:
    """Registers the method; Ray replaces it by a call of the replica's method of the same name."""
    handler = unary_unary_rpc_method_handler(
        getattr(servicer, METHOD), BytesValue.FromString, BytesValue.SerializeToString
    )
    server.add_generic_rpc_handlers((method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
