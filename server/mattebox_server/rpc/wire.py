"""Messages in and out of one call. No wait for a caller is without an end.

Calls of one request and one answer are handled as streams of one message each, which looks the same on the wire: so
the server decides whether to take a request before it is received, and knows when the answer is out.
"""

from __future__ import annotations  # grpc is generic in its stubs only

import asyncio
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from mattebox_server.errors import InvalidRequest, Violation
from mattebox_server.records import Record
from mattebox_server.rpc.calls import CallerGone

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mattebox_server.admission.reception import Reception

REQUEST_ID_KEY = "x-request-id"
_TRACE_KEY = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.stdlib.get_logger(__name__)

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


@dataclass(frozen=True)
class Wire:
    """Receives requests and sends answers.

    Args:
        reception: the places of requests that arrive.
        send_s: the seconds that a caller may take to receive an answer.
    """

    reception: Reception
    send_s: float

    async def receive(self, context: Context, record: Record) -> Message:
        """Reads the one request of a call.

        Raises:
            InvalidRequest: there is none, or the bytes are no message of the method.
            Overloaded: too many requests arrive at once.
            DeadlineExceeded: the request took too long to arrive.
            CallerGone: the caller went away.
        """
        with record.times.stage("receive"):
            async with self.reception.place():
                try:
                    message: object = await context.read()
                except DecodeError as error:
                    raise InvalidRequest(Violation("request", "is no message of this method")) from error
                except aio.InternalError:  # the connection broke
                    raise CallerGone from None
        if message is aio.EOF:  # also if it is too large, of which gRPC itself tells the caller
            raise InvalidRequest(Violation("request", "is missing"))
        return cast("Message", message)

    async def send(self, context: Context, answer: bytes, record: Record) -> None:
        """Sends the request id and a serialised answer; returns when they are out.

        Raises:
            CallerGone: the caller takes too long to receive it, or went away.
        """
        try:
            with record.times.stage("send"):
                async with asyncio.timeout(self.send_s):
                    await context.send_initial_metadata(((REQUEST_ID_KEY, record.request_id),))
                    await context.write(answer)
        except TimeoutError:
            log.warning("the caller didn't take its answer", seconds=self.send_s)
            raise CallerGone from None
        except aio.InternalError:  # the connection broke, or the call was cancelled, in the midst of it
            raise CallerGone from None


def new_record(method: str, context: Context) -> Record:
    """Begins the record of a call. The request id is the caller's, if it sent a sane one."""
    sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    request_id = sent.get(REQUEST_ID_KEY, "")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = uuid.uuid4().hex
    remaining_s = cast("float | None", context.time_remaining())  # None without a deadline: the stubs are wrong
    now_s = time.monotonic()
    deadline_s = None if remaining_s is None else now_s + remaining_s
    return Record(method, request_id, now_s, deadline_s, traceparent=sent.get(_TRACE_KEY, ""))
