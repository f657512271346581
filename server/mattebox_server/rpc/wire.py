"""Messages in and out of one call, with the bytes that they hold accounted for and nobody waited for for ever.

Calls of one request and one answer are handled as streams of one message each, which looks the same on the wire: so
the server decides whether to take a request before it is received, and knows when the answer is out.
"""

from __future__ import annotations  # grpc is generic in its stubs only

import asyncio
import re
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from mattebox_server.errors import InvalidRequest, Violation
from mattebox_server.records import Record, Stage
from mattebox_server.rpc.calls import CallerGone

if TYPE_CHECKING:
    from collections.abc import Generator

    from google.protobuf.message import Message

    from mattebox_server.admission.budget import Budget, Share
    from mattebox_server.admission.reception import Reception

REQUEST_ID_KEY = "x-request-id"
_TRACE_KEY = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.stdlib.get_logger(__name__)

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


@dataclass(frozen=True)
class Wire:
    """The limits of what comes and goes.

    Args:
        reception: of requests that arrive.
        budget: of bytes of requests and answers in flight.
        send_s: how long a caller may take to receive an answer.
    """

    reception: Reception
    budget: Budget
    send_s: float

    async def receive(self, context: Context, record: Record) -> Message:
        """The one request of a call.

        Raises:
            InvalidRequest: there is none, or it is no message.
            Overloaded, DeadlineExceeded: see `Reception`.
        """
        started_s = time.monotonic()
        async with self.reception.place():
            message = await read(context)
        record.stages.append(Stage("receive", started_s, time.monotonic() - started_s))
        if message is aio.EOF:  # also if it is too large, of which gRPC itself tells the caller
            raise InvalidRequest(Violation("request", "is missing"))
        return cast("Message", message)

    @contextmanager
    def hold(self, message: Message, record: Record) -> Generator[Share]:
        """Accounts for a request's bytes, and later its answer's. Raises Overloaded at the limit."""
        record.request_bytes = message.ByteSize()
        with self.budget.share(record.request_bytes) as share:
            yield share

    async def send(self, context: Context, message: Message, record: Record | None = None) -> None:
        """Sends an answer; returns when it is out.

        Raises:
            CallerGone: the caller takes too long to receive it, or went away.
        """
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self.send_s):
                await context.write(message)
        except TimeoutError:
            log.warning("the caller didn't take its answer", seconds=self.send_s)
            raise CallerGone from None
        except aio.InternalError:  # the connection broke, or the call was cancelled, in the midst of it
            raise CallerGone from None
        if record is not None:
            record.stages.append(Stage("send", started_s, time.monotonic() - started_s))


async def read(context: Context) -> object:
    """The next message, or `aio.EOF`. Raises InvalidRequest for bytes that are none."""
    try:
        return await context.read()
    except DecodeError as error:
        raise InvalidRequest(Violation("request", "is no message of this method")) from error


def new_record(method: str, context: Context) -> Record:
    """A record of a call that begins: the caller's request id if it sent a sane one, else a new one."""
    sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    request_id = sent.get(REQUEST_ID_KEY, "")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = uuid.uuid4().hex
    remaining_s = cast("float | None", context.time_remaining())  # None without a deadline: the stubs are wrong
    now_s = time.monotonic()
    deadline_s = None if remaining_s is None else now_s + remaining_s
    return Record(method, request_id, now_s, deadline_s, traceparent=sent.get(_TRACE_KEY, ""))
