"""Measures one subject: closed loops, offered loads, the capacity, and what the server costs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from load.bench import Bench, Plan, on_bench
from load.capacity import Capacity, Search
from load.drivers import CannotRun, Subject
from load.footprint import Footprint, idle_cores, installed_bytes, memory_bytes, start_seconds
from load.phase import Phase
from load.results import Measured


@dataclass(frozen=True)
class Scope:
    """The measurements of a subject.

    Args:
        plan: how loads are put on a server.
        concurrencies: number of callers of each closed loop.
        shares: offered loads, as multiples of the best closed loop's throughput.
        rates_hz: offered loads in calls a second, in place of the shares; empty for the shares.
        search: the search for the capacity.
        starts: number of starts that are timed.
        idle_s: seconds without a call over which the idle server is measured.
    """

    plan: Plan
    concurrencies: tuple[int, ...]
    shares: tuple[float, ...]
    rates_hz: tuple[float, ...]
    search: Search
    starts: int
    idle_s: float


Tell = Callable[[str], None]


def measure(subject: Subject, comparison: str, scope: Scope, tell: Tell) -> Measured:
    """Measures a subject; the result of a subject that can't run holds the reason and no figures."""
    empty = Measured(subject.name, comparison, dict(subject.settings))
    try:
        tell("prepare")
        subject.prepare()
        photo, timeout_s = scope.plan.photos.files[0], scope.plan.timeout_s
        with subject.start() as server:
            loads = asyncio.run(on_bench(scope.plan, server, lambda bench: _loads(bench, scope, tell)))
        tell(f"start, {scope.starts} times")
        starts_s = tuple(start_seconds(subject, photo, timeout_s) for _ in range(scope.starts))
    except CannotRun as reason:
        tell(f"can't run: {reason}")
        return replace(empty, reason=str(reason))
    footprint = Footprint(*loads.memory_bytes, loads.idle_cores, starts_s, installed_bytes(subject))
    measured = replace(empty, settings=dict(subject.settings), closed=loads.closed, swept=loads.swept)
    return replace(measured, capacity=loads.capacity, footprint=footprint)


@dataclass(frozen=True)
class _Loads:
    closed: tuple[Phase, ...]
    swept: tuple[Phase, ...]
    capacity: Capacity
    idle_cores: float
    memory_bytes: tuple[int, int]


async def _loads(bench: Bench, scope: Scope, tell: Tell) -> _Loads:
    idle_bytes = memory_bytes(bench)
    idle = await idle_cores(bench, scope.idle_s)
    closed: list[Phase] = []
    for concurrency in scope.concurrencies:
        closed.append(await bench.closed(concurrency))
        tell(f"{concurrency} at once: {closed[-1].answered_hz:.2f}/s")
        await bench.settle()
    throughput_hz = max(phase.answered_hz for phase in closed)
    if not throughput_hz:
        raise CannotRun(f"no call was answered: {closed[0].statuses}")
    swept: list[Phase] = []
    for rate_hz in scope.rates_hz or [share * throughput_hz for share in scope.shares]:
        swept.append(await bench.open(rate_hz))
        tell(f"{rate_hz:.2f}/s offered: {swept[-1].answered_hz:.2f}/s answered, {swept[-1].statuses}")
    capacity = await scope.search.run(bench, throughput_hz, tell)
    return _Loads(tuple(closed), tuple(swept), capacity, idle, (idle_bytes, memory_bytes(bench)))
