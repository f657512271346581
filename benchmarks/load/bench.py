"""One server under loads, one after the other."""

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
        photos: what is sent.
        objective_s: of latency, for goodput.
        seconds: that a load lasts at least.
        calls: that an open loop makes at least.
        connections: of the generator.
        timeout_s: of each call.
        arrivals: of the open loop.
        seed: of arrivals and of the photos' order.
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
    """A server, the connections to it, and loads.

    Args:
        plan: how.
        server: that answers.
        callers: connections to it.
    """

    def __init__(self, plan: Plan, server: Running, callers: Sequence[Caller]) -> None:
        self.plan, self.server, self._callers = plan, server, callers

    async def warm_up(self, calls: int) -> None:
        """These count nowhere. Every kind of photo is among them, on every connection."""
        photos = [*self.plan.photos.files, *islice(self.plan.photos.in_order(self.plan.seed), calls)]
        for number, photo in enumerate(photos):
            caller = self._callers[number % len(self._callers)]
            await one_call(caller, photo, time.monotonic(), self.plan.timeout_s)

    async def closed(self, concurrency: int) -> Phase:
        """So many callers at once."""
        plan = self.plan
        photos = plan.photos.in_order(plan.seed)
        began_s = time.monotonic()
        with self._used() as used:
            outcome = await closed_loop(self._callers, photos, concurrency, plan.seconds, plan.timeout_s)
        ended_s = max(call.done_s for call in outcome.calls)
        return summarise(Load("closed", concurrency), outcome, (began_s, ended_s), plan.objective_s, used())

    async def open(self, rate_hz: float, enough: Callable[[Call], bool] = lambda _: False) -> Phase:
        """Calls at a rate; then until the server has nothing left to do."""
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
        """How many calls an open loop makes."""
        return max(self.plan.calls, round(rate_hz * self.plan.seconds), 2)

    async def settle(self) -> None:
        """Until a call is answered: what was left behind by callers who went must not count for the next load.

        Raises CannotRun if none is answered.
        """
        until_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < until_s:
            call = await one_call(self._callers[0], self.plan.photos.files[0], time.monotonic(), self.plan.timeout_s)
            if call.answer.status == "OK":
                return
        raise CannotRun(f"the server answered no call for {_SETTLE_S:.0f} s after a load")

    @contextmanager
    def _used(self) -> Generator[Callable[[], Usage]]:
        """Afterwards, what processors' time was used. No garbage is collected meanwhile, as that would stall calls."""
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
    """What comes of loads on a server that has been warmed up, on connections of their own."""
    callers = [await server.connect() for _ in range(plan.connections)]
    try:
        bench = Bench(plan, server, callers)
        await bench.warm_up(plan.connections * 2)
        return await load(bench)
    finally:
        for caller in callers:
            await caller.close()


def _ended_s(outcome: Outcome, began_s: float, planned_s: float) -> float:
    """When the load ended: as planned, or with the last call if it was given up."""
    if outcome.abandoned and outcome.calls:
        return max(call.done_s for call in outcome.calls)
    return began_s + planned_s


def _server_seconds(pids: Sequence[int]) -> dict[int, float]:
    """Processors' time of each process that is still there."""
    seconds: dict[int, float] = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue  # it has ended since it was listed
        seconds[pid] = times.user + times.system
    return seconds
