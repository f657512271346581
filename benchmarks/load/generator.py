"""The load generator: an open loop and a closed loop of calls.

Open loop: the times of all calls are fixed before the first call, as with callers who don't know of each other. Latency
counts from the time at which a call was due, so that a stall of the server or of the generator shows in every call that
was due meanwhile. Closed loop: each caller calls again when it is answered. A server that stalls then gets fewer calls,
so that its tail looks better than callers would find it (coordinated omission).
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from load.drivers import Answer, Caller

Arrivals = Literal["poisson", "constant"]
_LEAD_S = 0.05  # the thread that keeps time needs a moment to start


@dataclass(frozen=True)
class Call:
    """One call. Times are of the clock of `time.monotonic`.

    Args:
        due_s: time at which the call was due.
        sent_s: time at which the call was made.
        done_s: time at which the answer arrived.
        bytes_in: size of the photo.
        answer: the answer.
    """

    due_s: float
    sent_s: float
    done_s: float
    bytes_in: int
    answer: Answer

    @property
    def latency_s(self) -> float:
        """Seconds from the time at which the call was due: what a caller waits."""
        return self.done_s - self.due_s

    @property
    def service_s(self) -> float:
        """Seconds from the time at which the call was made: what the server and the connection took."""
        return self.done_s - self.sent_s


@dataclass(frozen=True)
class Outcome:
    """The outcome of a loop.

    Args:
        calls: calls that ended, in the order in which they ended.
        abandoned: number of calls that were due or under way when the loop was given up.
    """

    calls: list[Call]
    abandoned: int = 0


def schedule(arrivals: Arrivals, rate_hz: float, count: int, seed: int) -> list[float]:
    """Returns the times, in seconds from the start, at which this many calls are due."""
    if arrivals == "constant":
        return [number / rate_hz for number in range(count)]
    # A Poisson process conditioned on its number of calls: otherwise chance would change the rate of a short load.
    numbers = random.Random(seed)
    return sorted(numbers.uniform(0, count / rate_hz) for _ in range(count))


class OpenLoop:
    """Calls at fixed times.

    Args:
        callers: connections, which make the calls in turn.
        photos: one file for each call.
        timeout_s: deadline of each call.
        enough: function of each call that ended; the loop is given up once it returns True.
    """

    def __init__(
        self, callers: Sequence[Caller], photos: Iterator[bytes], timeout_s: float, enough: Callable[[Call], bool]
    ) -> None:
        self._callers, self._photos, self._timeout_s, self._enough = callers, photos, timeout_s, enough
        self._stop = threading.Event()
        self._calls: list[Call] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, times_s: Sequence[float]) -> Outcome:
        """Makes the calls; returns when all have ended or the loop is given up."""
        loop = asyncio.get_running_loop()
        started_s = time.monotonic() + _LEAD_S

        def keep_time() -> None:
            # The event loop's timers are a millisecond late; a thread's sleep is late by a twentieth of that.
            for number, time_s in enumerate(times_s):
                due_s = started_s + time_s
                if self._stop.wait(max(0.0, due_s - time.monotonic())):
                    return
                loop.call_soon_threadsafe(self._begin, number, due_s)

        try:
            await asyncio.to_thread(keep_time)
            await asyncio.sleep(0)  # the last one begins
            await asyncio.gather(*self._tasks)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            self._stop.set()
        return Outcome(self._calls, len(times_s) - len(self._calls))

    def _begin(self, number: int, due_s: float) -> None:
        if not self._stop.is_set():
            task = asyncio.get_running_loop().create_task(self._one(number, due_s))
            self._tasks.add(task)

    async def _one(self, number: int, due_s: float) -> None:
        call = await one_call(self._callers[number % len(self._callers)], next(self._photos), due_s, self._timeout_s)
        self._calls.append(call)
        if self._enough(call) and not self._stop.is_set():
            self._stop.set()
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()


async def closed_loop(
    callers: Sequence[Caller], photos: Iterator[bytes], concurrency: int, seconds: float, timeout_s: float
) -> Outcome:
    """Lets this many callers, which share the connections, call again whenever they are answered, at least once."""
    until_s = time.monotonic() + seconds
    calls: list[Call] = []

    async def again_and_again(number: int) -> None:
        caller = callers[number % len(callers)]
        while True:
            calls.append(await one_call(caller, next(photos), time.monotonic(), timeout_s))
            if time.monotonic() >= until_s:
                return

    await asyncio.gather(*(again_and_again(number) for number in range(concurrency)))
    return Outcome(calls)


async def one_call(caller: Caller, photo: bytes, due_s: float, timeout_s: float) -> Call:
    """Makes one call now, which was due at `due_s`."""
    sent_s = time.monotonic()
    answer = await caller.call(photo, timeout_s)
    return Call(due_s, sent_s, time.monotonic(), len(photo), answer)
