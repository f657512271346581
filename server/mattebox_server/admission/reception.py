"""Requests on their way in. gRPC tells nobody their size before the last byte is there."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mattebox_server.errors import DeadlineExceeded, Overloaded

_UNDISTURBED_S = 1.0
_RETRY_AFTER_S = 0.5


@dataclass(eq=False)
class _Arrival:
    timer: asyncio.Timeout
    since_s: float
    is_displaced: bool = False


class Reception:
    """Bounds how many requests are received at once, and for how long.

    Where there is no room, the request that has been arriving for the longest time makes place for the next one, so
    that callers who send slowly, or never to the end, can't keep others out.

    Args:
        places: the number of requests that are received at once.
        timeout_s: the seconds that each of them may take.
    """

    def __init__(self, places: int, timeout_s: float) -> None:
        self._places, self._timeout_s = places, timeout_s
        self._arriving: dict[_Arrival, None] = {}  # the oldest first

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Holds a place until the block ends.

        Raises:
            Overloaded: no place is free, now or because another request took this one's.
            DeadlineExceeded: the block took too long.
        """
        if len(self._arriving) >= self._places:
            self._displace_oldest()
        arrival = _Arrival(asyncio.timeout(self._timeout_s), time.monotonic())
        try:
            async with arrival.timer:
                self._arriving[arrival] = None
                yield
        except TimeoutError:
            if arrival.is_displaced:
                raise _full("others arrive faster") from None
            raise DeadlineExceeded(f"the request took more than {self._timeout_s:g} s to arrive") from None
        finally:
            self._arriving.pop(arrival, None)

    def _displace_oldest(self) -> None:
        """Frees a place. Raises Overloaded if the oldest arrival has only just begun."""
        oldest = next(iter(self._arriving))
        if not oldest.timer.expired():  # its time is over in this turn of the event loop: it is about to leave
            if time.monotonic() - oldest.since_s < _UNDISTURBED_S:
                raise _full("the limit")
            oldest.is_displaced = True
            oldest.timer.reschedule(asyncio.get_running_loop().time())
        del self._arriving[oldest]


def _full(why: str) -> Overloaded:
    return Overloaded(f"too many requests arrive at once, {why}", _RETRY_AFTER_S, "receiving")
