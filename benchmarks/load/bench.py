"""Puts one load after the other on a server."""

import gc
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import psutil

from load.drivers import Caller, CannotRun, Running
from load.generator import Arrivals, Call, OpenLoop, Outcome, closed_loop, one_call, schedule
from load.phase import Load, Phase, Usage, summarise
from load.photos import Photos

_SETTLE_S = 300.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Plan:
    """How loads are put on a server.

    Args:
        photos: files that are sent.
        objective_s: latency within which an answer counts as goodput.
        seconds: shortest duration of a load.
        calls: smallest number of calls of an open loop.
        connections: number of connections of the generator.
        timeout_s: deadline of each call.
        arrivals: distribution of the open loop's calls in time.
        seed: seed of the arrivals and of the photos' order.
    """

    photos: Photos
    objective_s: float
    seconds: float
    calls: int
    connections: int
    timeout_s: float
    arrivals: Arrivals
    seed: int


class Bench:
    """A server, the connections to it, and the loads that are put on it.

    Args:
        plan: how loads are put on the server.
        server: the running server.
        callers: connections to the server.
    """

    def __init__(self, plan: Plan, server: Running, callers: Sequence[Caller]) -> None:
        self.plan, self.server, self._callers = plan, server, callers

    async def warm_up(self, calls: int) -> None:
        """Makes calls that no figure counts: every photo once, and this many more, on all connections in turn."""
        photos = [*self.plan.photos.files, *islice(self.plan.photos.in_order(self.plan.seed), calls)]
        for number, photo in enumerate(photos):
            caller = self._callers[number % len(self._callers)]
            await one_call(caller, photo, time.monotonic(), self.plan.timeout_s)

    async def closed(self, concurrency: int) -> Phase:
        """Puts a closed loop of this many callers on the server."""
        plan = self.plan
        photos = plan.photos.in_order(plan.seed)
        began_s = time.monotonic()
        with self._used() as used:
            outcome = await closed_loop(self._callers, photos, concurrency, plan.seconds, plan.timeout_s)
        ended_s = max(call.done_s for call in outcome.calls)
        return summarise(Load("closed", concurrency), outcome, (began_s, ended_s), plan.objective_s, used())

    async def open(self, rate_hz: float, enough: Callable[[Call], bool] = lambda _: False) -> Phase:
        """Puts an open loop of this rate on the server, and waits until the server has nothing left to do."""
        plan = self.plan
        times_s = schedule(plan.arrivals, rate_hz, self.calls_at(rate_hz), plan.seed)
        loop = OpenLoop(self._callers, plan.photos.in_order(plan.seed), plan.timeout_s, enough)
        began_s = time.monotonic()
        with self._used() as used:
            outcome = await loop.run(times_s)
        ended_s = _ended_s(outcome, began_s, len(times_s) / rate_hz)
        load = Load("open", rate_hz, plan.arrivals)
        phase = summarise(load, outcome, (began_s, ended_s), plan.objective_s, used())
        await self.settle()
        return phase

    def calls_at(self, rate_hz: float) -> int:
        """Returns how many calls an open loop of this rate makes."""
        return max(self.plan.calls, round(rate_hz * self.plan.seconds), 2)

    async def settle(self) -> None:
        """Waits until a call is answered, so that work left over from one load doesn't count for the next.

        Raises:
            CannotRun: no call is answered for five minutes.
        """
        until_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < until_s:
            call = await one_call(self._callers[0], self.plan.photos.files[0], time.monotonic(), self.plan.timeout_s)
            if call.answer.status == "OK":
                return
        raise CannotRun(f"the server answered no call for {_SETTLE_S:.0f} s after a load")

    @contextmanager
    def _used(self) -> Generator[Callable[[], Usage]]:
        """Measures the processor time within the block, in which no garbage is collected, as that would delay calls."""
        before_s, ours_s, began_s = _server_seconds(self.server.pids), time.process_time(), time.monotonic()
        usage: list[Usage] = []
        gc.collect()
        gc.disable()
        try:
            yield lambda: usage[0]
        finally:
            gc.enable()
        wall_s = time.monotonic() - began_s
        after_s = _server_seconds(self.server.pids)
        server_s = sum(after_s[pid] - before_s.get(pid, 0.0) for pid in after_s)
        usage.append(Usage((time.process_time() - ours_s) / wall_s, server_s / wall_s))


async def on_bench(plan: Plan, server: Running, load: Callable[[Bench], Awaitable[_Result]]) -> _Result:
    """Connects to a server, warms it up, and returns what `load` finds."""
    callers = [await server.connect() for _ in range(plan.connections)]
    try:
        bench = Bench(plan, server, callers)
        await bench.warm_up(plan.connections * 2)
        return await load(bench)
    finally:
        for caller in callers:
            await caller.close()


def _ended_s(outcome: Outcome, began_s: float, planned_s: float) -> float:
    """Returns when the load ended: at the planned time, or with the last call of a loop that was given up."""
    if outcome.abandoned and outcome.calls:
        return max(call.done_s for call in outcome.calls)
    return began_s + planned_s


def _server_seconds(pids: Sequence[int]) -> dict[int, float]:
    """Returns the processor time of each process that still runs, by process id."""
    seconds: dict[int, float] = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue  # it has ended since it was listed
        seconds[pid] = times.user + times.system
    return seconds
