"""A server that answers as clients/cases.json says: the same for the clients of all languages."""

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import json_format
from google.rpc import (
    code_pb2,
    error_details_pb2,  # noqa: F401 - registers the details, so that JSON can name them
    status_pb2,
)
from grpc_status import rpc_status

from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc

CASES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "clients" / "cases.json").read_text())
_REQUEST_ID = (("x-request-id", "case-1"),)


def case_of(section: str, name: str) -> dict[str, Any]:
    """The only one of that name."""
    (case,) = (case for case in CASES[section] if case["name"] == name)
    return dict(case)


class CaseServicer(pb_grpc.BackgroundRemovalServiceServicer):
    """Echoes requests as JSON; fails and answers by the names of cases."""

    def RemoveBackground(  # noqa: N802 - the contract's name
        self, request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext
    ) -> pb.RemoveBackgroundResponse:
        kind, _, name = request.model.partition(":")
        if kind == "status":
            _fail(case_of("statuses", name), context)
        context.send_initial_metadata(_REQUEST_ID)
        if kind == "result":
            response = case_of("results", name)["response"]
            return json_format.ParseDict(response, pb.RemoveBackgroundResponse())
        echo = json_format.MessageToJson(request).encode()
        return pb.RemoveBackgroundResponse(image=echo, format=pb.IMAGE_FORMAT_PNG)


def _fail(case: dict[str, Any], context: grpc.ServicerContext) -> NoReturn:
    # An error has its request id in the trailing metadata.
    message = {"code": code_pb2.Code.Value(case["code"]), "message": case["message"], "details": case["details"]}
    status = json_format.ParseDict(message, status_pb2.Status())
    found = rpc_status.to_status(status)
    context.set_trailing_metadata((*_REQUEST_ID, *(found.trailing_metadata if status.details else ())))
    context.abort(found.code, found.details or "")
    raise AssertionError("abort raises")


@contextmanager
def case_server() -> Generator[str]:
    """Gives its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_BackgroundRemovalServiceServicer_to_server(CaseServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)
