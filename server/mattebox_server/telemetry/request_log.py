"""One line in the log for each request."""

import asyncio
import contextvars
import logging
import time
from collections import Counter
from collections.abc import Callable

import structlog

from mattebox_server.records import Record

log = structlog.stdlib.get_logger(__name__)

# A server under overload refuses thousands of requests a second at next to no cost, and should not spend it on the log:
# of requests refused at a limit, so many a second get a line, one line counts the others. All are there at debug level.
_LINES_PER_S = 10
_WINDOW_S = 1.0


class RequestLog:
    """Writes each request's line at its end. Runs on the event loop.

    Args:
        clock: gives seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window_s = 0.0  # when the current second began
        self._lines = 0  # of refusals, in this second
        self._left_out: Counter[str] = Counter()

    def __call__(self, record: Record) -> None:
        """Writes the line, or counts a refusal that gets none."""
        level = logging.INFO
        if record.limit and not self._has_room():
            self._leave_out(record.limit)
            level = logging.DEBUG
        if log.is_enabled_for(level):
            log.log(level, "request", **_facts(record))

    def _has_room(self) -> bool:
        now_s = self._clock()
        if now_s - self._window_s >= _WINDOW_S:
            self._window_s, self._lines = now_s, 0
        self._lines += 1
        return self._lines <= _LINES_PER_S

    def _leave_out(self, limit: str) -> None:
        if not self._left_out:  # in a context of its own: else the line would bear this request's id
            asyncio.get_running_loop().call_later(_WINDOW_S, self._tell_left_out, context=contextvars.Context())
        self._left_out[limit] += 1

    def _tell_left_out(self) -> None:
        log.warning(
            "requests were refused that have no line here", requests=self._left_out.total(), limits=dict(self._left_out)
        )
        self._left_out.clear()


def _facts(record: Record) -> dict[str, object]:
    facts: dict[str, object] = {
        "caller": record.caller,
        "model": record.model,
        "size": f"{record.width_px}x{record.height_px}" if record.width_px else "",
        "limit": record.limit,
        "reason": record.reason,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "batch_size": record.batch_size,
        "stages_ms": {stage.name: _ms(stage.seconds) for stage in record.times},
    }
    shown = {name: value for name, value in facts.items() if value}
    known = {"method": record.method, "request_id": record.request_id, "status": record.status}
    return known | {"ms": _ms(record.seconds)} | shown


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
