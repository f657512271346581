"""Turns errors into gRPC statuses with `google.rpc` details. No other module does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from mattebox_server.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotServing,
    Overloaded,
    Unauthenticated,
    UnknownModel,
    Violation,
)

PUSHBACK_KEY = "grpc-retry-pushback-ms"

# A trailer over 8 KiB breaks the call, so that texts and lists are cut: 8 x (300 + a field's name) + 300 bytes of
# details in base64, and 300 bytes of text of which each may become three, stay below 6 KiB.
_MAX_VIOLATIONS = 8
_MAX_TEXT_BYTES = 300


@dataclass(frozen=True)
class Refusal:
    """What a caller gets instead of an answer: the status, and the details in the trailing metadata."""

    code: grpc.StatusCode
    text: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def to_refusal(error: Exception, request_id: str) -> Refusal:
    """Gives the status of an error.

    An error that is no MatteboxError, or that is not the caller's business, becomes INTERNAL with a fixed text and the
    request id.
    """
    match error:
        case InvalidRequest():
            return _refusal(grpc.StatusCode.INVALID_ARGUMENT, _listed(error.violations), _bad_request(error.violations))
        case UnknownModel(name=name):
            info = ResourceInfo(resource_type="model", resource_name=_cut(name))
            return _refusal(grpc.StatusCode.NOT_FOUND, str(error), info)
        case Overloaded(retry_after_s=after_s):
            pushback = (PUSHBACK_KEY, str(round(after_s * 1000)))
            return _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), _retry_info(after_s), pushback)
        case NotServing(retry_after_s=after_s):
            return _refusal(grpc.StatusCode.UNAVAILABLE, str(error), _retry_info(after_s))
        case DeadlineExceeded() | Unauthenticated():
            late = isinstance(error, DeadlineExceeded)
            return _refusal(grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.UNAUTHENTICATED, str(error))
        case _:
            return _refusal(grpc.StatusCode.INTERNAL, f"internal error; the server's log has it under {request_id}")


def _refusal(
    code: grpc.StatusCode, text: str, detail: Message | None = None, *metadata: tuple[str, str | bytes]
) -> Refusal:
    number: int = code.value[0]
    proto = Status(code=number, message=_cut(text))
    if detail is not None:
        proto.details.add().Pack(detail)
    status = rpc_status.to_status(proto)  # pyright: ignore[reportUnknownMemberType]
    return Refusal(code, proto.message, (*status.trailing_metadata, *metadata))


def _listed(violations: Sequence[Violation]) -> str:
    return "; ".join(f"{v.field}: {v.description}" for v in violations)


def _bad_request(violations: Sequence[Violation]) -> BadRequest:
    shown = [
        BadRequest.FieldViolation(field=v.field, description=_cut(v.description)) for v in violations[:_MAX_VIOLATIONS]
    ]
    return BadRequest(field_violations=shown)


def _cut(text: str) -> str:
    return text.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")


def _retry_info(after_s: float) -> RetryInfo:
    delay = Duration()
    delay.FromTimedelta(timedelta(seconds=after_s))
    return RetryInfo(retry_delay=delay)
