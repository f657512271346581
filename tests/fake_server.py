"""A gRPC server whose answers to photos a test controls."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from mattebox.v1 import background_removal_pb2 as pb

LONGEST_S = 120  # no test holds a call for so long
Answer: TypeAlias = Callable[[pb.RemoveBackgroundRequest, grpc.ServicerContext], pb.RemoveBackgroundResponse]


def composite(image: bytes = b"x") -> pb.RemoveBackgroundResponse:
    """Returns an answer with these bytes for an image, of 1x1 pixels."""
    return pb.RemoveBackgroundResponse(image=image, format=pb.IMAGE_FORMAT_PNG, width=1, height=1)


class Held:
    """Holds calls until the caller cancels them.

    Attributes:
        begun: the number of calls that were held so far.
        cancelled: the number of them that have ended.
    """

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self._lock = threading.Lock()

    def __call__(self, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        over = threading.Event()
        with self._lock:
            self.begun += 1
        if context.add_callback(over.set):
            over.wait(LONGEST_S)
        with self._lock:
            self.cancelled += 1
        return composite()


@contextmanager
def fake_server(answer: Answer, list_models: Callable[[], pb.ListModelsResponse] | None = None) -> Generator[str]:
    """Starts a server on a free port; gives its address. Without `list_models` it doesn't have that method."""
    handler = grpc.unary_unary_rpc_method_handler
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "RemoveBackground": handler(
            answer, pb.RemoveBackgroundRequest.FromString, pb.RemoveBackgroundResponse.SerializeToString
        )
    }
    if list_models is not None:

        def answer_models(_request: pb.ListModelsRequest, _context: grpc.ServicerContext) -> pb.ListModelsResponse:
            return list_models()

        methods["ListModels"] = handler(
            answer_models,
            pb.ListModelsRequest.FromString,
            pb.ListModelsResponse.SerializeToString,
        )
    server = grpc.server(ThreadPoolExecutor(16))
    service = "mattebox.v1.BackgroundRemovalService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)
