"""Requests on their way in, whose size nobody knows before the last byte is there."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mattebox_server.errors import DeadlineExceeded, Overloaded

_UNDISTURBED_S = 1.0
_RETRY_AFTER_S = 0.5


class Reception:
    """Bounds how many requests are received at once, and for how long.

    Where there is no room, the one that has been arriving for the longest makes place for the next one, so that
    callers who send slowly, or never to the end, can't keep others out.

    Args:
        limit: requests that are received at once.
        timeout_s: how long each may take.
    """

    def __init__(self, limit: int, timeout_s: float) -> None:
        self._limit, self._timeout_s = limit, timeout_s
        self._arriving: dict[asyncio.Timeout, float] = {}  # since when; the oldest first
        self._displaced: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Holds a place until the block ends.

        Raises:
            Overloaded: no place is free, now or because another one took it.
            DeadlineExceeded: the block took too long.
        """
        if len(self._arriving) >= self._limit:
            self._displace()
        timer = asyncio.timeout(self._timeout_s)
        try:
            async with timer:
                self._arriving[timer] = time.monotonic()
                yield
        except TimeoutError:
            if timer in self._displaced:
                raise _full("others arrive faster") from None
            raise DeadlineExceeded(f"the request took more than {self._timeout_s:g} s to arrive") from None
        finally:
            self._arriving.pop(timer, None)
            self._displaced.discard(timer)

    def _displace(self) -> None:
        timer, since_s = next(iter(self._arriving.items()))
        if time.monotonic() - since_s < _UNDISTURBED_S:
            raise _full("the limit")
        del self._arriving[timer]
        self._displaced.add(timer)
        timer.reschedule(asyncio.get_running_loop().time())


def _full(why: str) -> Overloaded:
    return Overloaded(f"too many requests arrive at once, {why}", _RETRY_AFTER_S, "receiving")
