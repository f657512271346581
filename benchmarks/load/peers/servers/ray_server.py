"""The Ray Serve server: one replica behind the gRPC proxy."""

import signal
import socket
from pathlib import Path

import cutout
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions


class Cutouts:
    """The replica."""

    def __init__(self, model: Path, threads: int) -> None:
        self._cut = cutout.cutter(model, threads)

    def Remove(self, request: BytesValue) -> BytesValue:  # noqa: N802 - the RPC's name
        """Returns the cutout's file."""
        return BytesValue(value=self._cut(request.value))


def main() -> None:
    """Runs the server until a signal."""
    arguments = cutout.arguments()
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    with socket.socket() as free:  # the HTTP proxy can't be left out
        free.bind(("127.0.0.1", 0))
        http_port = free.getsockname()[1]
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=arguments.port, grpc_servicer_functions=["ray_grpc.add_to_server"]),
    )
    # "As shipped" leaves the deployment's defaults; "same engine" runs as many photos at a time as the other servers.
    deployment = serve.deployment(Cutouts)
    if arguments.threads:
        deployment = deployment.options(max_ongoing_requests=arguments.threads)
    serve.run(deployment.bind(arguments.model, arguments.threads))
    signal.pause()


if __name__ == "__main__":
    main()
