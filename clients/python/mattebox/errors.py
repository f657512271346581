"""The errors of a call.

```
MatteboxError
├── InvalidRequest           a ValueError too: an option or the photo is wrong; `violations` names fields and reasons
│   └── MessageTooLarge      the message is larger than the server or the client allows
├── UnknownModel             the server has no model of that name
├── Unauthenticated          the token is missing or wrong
├── DeadlineExceeded         the timeout passed
├── Cancelled                the call was cancelled
├── Overloaded               the server is at its limit; `retry_after` says when to try again
├── Unavailable              no server answers, or it starts or drains
├── NotImplementedByServer   the server is older than the call
└── ServerError              any other status
    └── InternalError        a fault of the server; its log names the cause under `request_id`
```

Four kinds of errors are raised before anything is sent: `InvalidRequest` for options that a message can't express,
`OSError` for a file that can't be read, `TypeError` for a wrong type, and `ValueError` for an argument that is wrong in
itself. The server finds everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf import any_pb2
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

_REQUEST_ID_KEY = "x-request-id"
_DETAILS_KEY = "grpc-status-details-bin"

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class FieldViolation:
    """One field of the request that is wrong.

    Args:
        field: the field's path in the request message, such as `output.quality`.
        description: the reason why it is wrong.
    """

    field: str
    description: str


class MatteboxError(Exception):
    """The base class of all errors of a call.

    Attributes:
        code: the gRPC status code by name, such as "INVALID_ARGUMENT".
        violations: the fields that are wrong; empty where none was named.
        retry_after: the time after which the same call may succeed; None where the server named none.
        request_id: the call's id in the server's log; "" for a call that reached no server.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        violations: tuple[FieldViolation, ...] = (),
        retry_after: timedelta | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.violations = violations
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidRequest(MatteboxError, ValueError):
    """An option or the photo is wrong. Without a `request_id` the client found it before anything was sent."""

    @classmethod
    def of(cls, *violations: tuple[str, str]) -> InvalidRequest:
        """Makes the error for what the client found: pairs of a field and a description."""
        found = tuple(FieldViolation(field, description) for field, description in violations)
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in found)
        return cls(text, code="INVALID_ARGUMENT", violations=found)


class MessageTooLarge(InvalidRequest):
    """The request or the answer is larger than the server or the client allows."""


class UnknownModel(MatteboxError):
    """The server has no model of that name."""


class Unauthenticated(MatteboxError):
    """The token is missing or wrong."""


class DeadlineExceeded(MatteboxError):
    """The timeout passed."""


class Cancelled(MatteboxError):
    """The call was cancelled."""


class Overloaded(MatteboxError):
    """The server is at its limit now."""


class Unavailable(MatteboxError):
    """No server answers, or it starts or drains."""


class NotImplementedByServer(MatteboxError):
    """The server is older than the call."""


class ServerError(MatteboxError):
    """Any other status."""


class InternalError(ServerError):
    """A fault of the server."""


_TYPES: dict[grpc.StatusCode, type[MatteboxError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: NotImplementedByServer,
    grpc.StatusCode.INTERNAL: InternalError,
}


def from_status(code: grpc.StatusCode, text: str, initial: Metadata, trailing: Metadata) -> MatteboxError:
    """Makes the error of a failed call from its status and the `google.rpc` details in its trailing metadata."""
    violations: list[FieldViolation] = []
    retry_after: timedelta | None = None
    bad_request, retry_info = BadRequest(), RetryInfo()
    for detail in _details(trailing):
        if detail.Unpack(bad_request):
            violations += [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            retry_after = retry_info.retry_delay.ToTimedelta()
    error_type = _TYPES.get(code, ServerError)
    # gRPC reports a message over the limit with the code of an overload, but without a time after which to retry.
    if error_type is Overloaded and retry_after is None and "larger than max" in text:
        error_type = MessageTooLarge
    return error_type(
        text or code.name,
        code=code.name,
        violations=tuple(violations),
        retry_after=retry_after,
        request_id=request_id_of((*initial, *trailing)),
    )


def request_id_of(metadata: Metadata) -> str:
    """Returns a call's id in the server's log, from an answer's initial or an error's trailing metadata; else ""."""
    return next((value for key, value in metadata if key == _REQUEST_ID_KEY and isinstance(value, str)), "")


def _details(trailing: Metadata) -> Iterable[any_pb2.Any]:
    for key, value in trailing:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            yield from Status.FromString(value).details
