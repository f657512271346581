"""A server that answers as clients/cases.json says, for the clients of all languages."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from fake_server import fake_server
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.errors import InvalidRequest
from mattebox_server.rpc.requests import parse_request
from mattebox_server.rpc.statuses import to_refusal

KNOWN = BadRequest.DESCRIPTOR.full_name  # the import makes all kinds of details known to json_format

CASES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "clients" / "cases.json").read_text())
_REQUEST_ID = (("x-request-id", "case-1"),)


def case_of(section: str, name: str) -> dict[str, Any]:
    """Returns the case of that name, of which there must be one."""
    (case,) = (case for case in CASES[section] if case["name"] == name)
    return dict(case)


def _answer(request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
    """Fails or answers as the model's name says; else checks the request as the real server does, and echoes it."""
    kind, _, name = request.model.partition(":")
    if kind == "status":
        _fail(case_of("statuses", name), context)
    if kind != "result":
        _check(request, context)
    context.send_initial_metadata(_REQUEST_ID)
    if kind == "result":
        return json_format.ParseDict(case_of("results", name)["response"], pb.RemoveBackgroundResponse())
    echo = json_format.MessageToJson(request).encode()
    return pb.RemoveBackgroundResponse(image=echo, format=pb.IMAGE_FORMAT_PNG)


def _check(request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> None:
    try:
        parse_request(request)
    except InvalidRequest as error:
        refusal = to_refusal(error, "")
        context.set_trailing_metadata((*_REQUEST_ID, *refusal.trailing_metadata))
        context.abort(refusal.code, refusal.text)


def _fail(case: dict[str, Any], context: grpc.ServicerContext) -> NoReturn:
    """Ends the call with the case's status; an error has its request id in the trailing metadata."""
    code = grpc.StatusCode[case["code"]]
    message = {"code": code.value[0], "message": case["message"], "details": case["details"]}
    details = json_format.ParseDict(message, Status()).SerializeToString() if case["details"] else b""
    context.set_trailing_metadata((*_REQUEST_ID, *([("grpc-status-details-bin", details)] if details else [])))
    context.abort(code, case["message"])


@contextmanager
def case_server() -> Generator[str]:
    """Starts the server; gives its address."""
    with fake_server(_answer) as address:
        yield address
