"""What surrounds every request: one log line, errors turned into statuses, and a count."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import structlog

from mattebox_server.errors import InferenceFailed, MatteboxError
from mattebox_server.records import Observer, Record
from mattebox_server.rpc.statuses import Refusal, to_refusal
from mattebox_server.telemetry.request_log import RequestLog

log = structlog.stdlib.get_logger(__name__)

# gRPC cancels what is late on both sides, and the caller's cancellation may come a moment before the deadline here.
_CLOCKS_APART_S = 0.05


class Refused(Exception):
    """A request ended without an answer and its record is complete; only the caller doesn't know yet."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class CallerGone(Exception):
    """The caller went away, or takes nothing. The call is dropped, because nothing that is sent would arrive."""


class Calls:
    """Counts the requests that run, and completes the record of each.

    Args:
        observers: get each record, after the log.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.running = 0
        self._observers: tuple[Observer, ...] = (RequestLog(), *observers)
        self._changed = asyncio.Condition()

    async def busy(self) -> None:
        """Waits until a call runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.running > 0)

    async def idle(self) -> None:
        """Waits until no call runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.running == 0)

    @asynccontextmanager
    async def track(self, record: Record) -> AsyncGenerator[None]:
        """Surrounds a request until its answer is out.

        Raises:
            Refused: the request failed; it carries the status for the caller.
        """
        await self._count(1)
        with structlog.contextvars.bound_contextvars(request_id=record.request_id, method=record.method):
            try:
                yield
            except (asyncio.CancelledError, CallerGone):
                late = record.deadline_s is not None and time.monotonic() >= record.deadline_s - _CLOCKS_APART_S
                record.status = "DEADLINE_EXCEEDED" if late else "CANCELLED"
                raise
            except Exception as error:  # nothing that goes wrong in a call may reach grpc, which would tell the caller
                refusal = to_refusal(error, record.request_id)
                if not isinstance(error, MatteboxError) or isinstance(error, InferenceFailed):
                    log.exception("request failed")
                record.status, record.reason = refusal.code.name, refusal.text
                record.limit = getattr(error, "limit", "")
                raise Refused(refusal) from error
            finally:
                record.seconds = time.monotonic() - record.started_s
                self._tell(record)
                await self._count(-1)

    def _tell(self, record: Record) -> None:
        for observer in self._observers:
            try:
                observer(record)
            except Exception:  # the request has ended as it did, whoever can't write that down
                log.exception("a request's end was not observed", observer=repr(observer))

    async def _count(self, change: int) -> None:
        self.running += change
        async with self._changed:
            self._changed.notify_all()
