"""Every error of the server has a status, and every status an error of the client."""

import grpc
import pytest

import mattebox
from mattebox.errors import from_status
from mattebox_server import errors
from mattebox_server.errors import Violation
from mattebox_server.rpc.statuses import to_refusal

VIOLATION = Violation("a.b", "is wrong")
CASES: list[tuple[Exception, grpc.StatusCode, type[mattebox.MatteboxError]]] = [
    (errors.InvalidRequest(VIOLATION), grpc.StatusCode.INVALID_ARGUMENT, mattebox.InvalidRequest),
    (errors.BadPhoto(VIOLATION), grpc.StatusCode.INVALID_ARGUMENT, mattebox.InvalidRequest),
    (errors.PhotoTooLarge(VIOLATION), grpc.StatusCode.INVALID_ARGUMENT, mattebox.InvalidRequest),
    (errors.Unauthenticated(), grpc.StatusCode.UNAUTHENTICATED, mattebox.Unauthenticated),
    (errors.UnknownModel("m", ("a",)), grpc.StatusCode.NOT_FOUND, mattebox.UnknownModel),
    (errors.Overloaded("full", 1.5, "bytes"), grpc.StatusCode.RESOURCE_EXHAUSTED, mattebox.Overloaded),
    (errors.NotServing("starting", 1.5), grpc.StatusCode.UNAVAILABLE, mattebox.Unavailable),
    (errors.DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED, mattebox.DeadlineExceeded),
    (errors.InferenceFailed("/secret"), grpc.StatusCode.INTERNAL, mattebox.InternalError),
    (errors.OutOfMemory("/secret"), grpc.StatusCode.INTERNAL, mattebox.InternalError),
    (ZeroDivisionError("/secret"), grpc.StatusCode.INTERNAL, mattebox.InternalError),
]


@pytest.mark.parametrize(("error", "code", "client_error"), CASES, ids=lambda case: type(case).__name__)
def test_round_trip(error: Exception, code: grpc.StatusCode, client_error: type[mattebox.MatteboxError]) -> None:
    refusal = to_refusal(error, "id-7")
    assert refusal.code is code
    seen = from_status(refusal.code, refusal.text, (("x-request-id", "id-7"),), refusal.trailing_metadata)
    assert type(seen) is client_error
    assert (seen.code, seen.request_id) == (code.name, "id-7")
    assert "/secret" not in str(seen)
    if isinstance(error, errors.InvalidRequest):
        assert seen.violations == (mattebox.FieldViolation("a.b", "is wrong"),)
    if isinstance(error, errors.Overloaded | errors.NotServing):
        assert seen.retry_after is not None
        assert seen.retry_after.total_seconds() == 1.5
    pushback = dict(refusal.trailing_metadata).get("grpc-retry-pushback-ms")
    assert pushback == ("1500" if isinstance(error, errors.Overloaded) else None)


def test_no_error_of_the_server_is_left_out() -> None:
    tested = {type(error) for error, _, _ in CASES}
    todo = list(errors.MatteboxError.__subclasses__())
    while todo:
        kind = todo.pop()
        assert kind in tested
        todo += kind.__subclasses__()


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_has_an_error(code: grpc.StatusCode) -> None:
    error = from_status(code, "", (), ())
    assert isinstance(error, mattebox.MatteboxError)
    assert (error.code, str(error)) == (code.name, code.name)


def test_too_large_a_message_is_no_overload() -> None:
    text = "Received message larger than max (5 vs. 4)"
    assert type(from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, text, (), ())) is mattebox.MessageTooLarge
