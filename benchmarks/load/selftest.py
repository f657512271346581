"""`make bench-selftest`: the latency that the generator adds, the calls that it can make, and what it hides."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

import grpc
import psutil

from load.bench import Bench, Plan, on_bench
from load.histogram import Histogram
from load.null import METHOD, Null
from load.phase import Phase
from load.photos import Photos

_WAIT_S, _PAUSE_S = 0.005, 1.0
_ERROR_GOAL_S, _CALLS_GOAL_HZ = 0.001, 2000
_PLAN = Plan(Photos("a hundred bytes", (b"x" * 100,), (1,)), 1.0, 5.0, 2, 4, 30.0, "poisson", 1)


@dataclass(frozen=True)
class Paused:
    """A load during which the server was stopped for a while.

    Args:
        phase: figures of the load.
        pause_s: seconds for which the server was stopped.
    """

    phase: Phase
    pause_s: float

    @property
    def waited(self) -> float:
        """Calls that took over half of the pause, as a multiple of the calls that were due in its first half."""
        values_s, counts = Histogram(self.phase.latency).buckets()
        late = int(counts[values_s > self.pause_s / 2].sum())
        return late / (self.phase.load.amount * self.pause_s / 2)


def self_test(seconds: float) -> dict[str, float]:
    """Runs each part for this many seconds; prints and returns the figures."""
    plan = replace(_PLAN, seconds=seconds)
    null = asyncio.run(_on(plan, Null(_WAIT_S), lambda bench: bench.open(100)))
    error_s = Histogram(null.latency).quantile_s(99) - _WAIT_S
    _say("null test: p99 - 5 ms at 100 calls a second", f"{error_s * 1e3:.2f} ms", error_s < _ERROR_GOAL_S)
    plain_s = Histogram.of(_plain_calls_s(seconds)).quantile_s(99) - _WAIT_S
    added_s = error_s - plain_s
    _say("of it, above gRPC's own blocking calls", f"{added_s * 1e3:.2f} ms", added_s < _ERROR_GOAL_S)
    late_s = Histogram.of(_late_s(seconds)).quantile_s(99)
    print(f"of it, how late an idle process wakes up here, p99: {late_s * 1e3:.2f} ms", flush=True)
    trivial = asyncio.run(_on(plan, Null(0), lambda bench: bench.closed(32)))
    per_core_hz = trivial.sent / trivial.seconds / trivial.usage.generator_cores
    _say("trivial calls a second for each core of the generator", f"{per_core_hz:.0f}", per_core_hz >= _CALLS_GOAL_HZ)
    paused = asyncio.run(paused_load(replace(plan, seconds=max(3.0, seconds)), 100))
    _say("calls due in a pause of the server whose latency shows it", f"{paused.waited:.2f}", paused.waited > 0.8)
    return {
        "null_error_p99_s": error_s,
        "plain_error_p99_s": plain_s,
        "late_p99_s": late_s,
        "trivial_calls_per_core_hz": per_core_hz,
        "trivial_calls_hz": trivial.sent / trivial.seconds,
        "waited_of_paused": paused.waited,
        "lag_p99_s": Histogram(null.lag).quantile_s(99),
    }


def _plain_calls_s(seconds: float) -> list[float]:
    """Returns the seconds of calls by gRPC's blocking client, one after the other, without the generator."""
    with Null(_WAIT_S).start() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        wait: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        took_s: list[float] = []
        for _ in range(round(seconds * 100)):
            time.sleep(0.01 - _WAIT_S)
            began_s = time.monotonic()
            wait(b"x" * 100)
            took_s.append(time.monotonic() - began_s)
        return took_s[5:]  # the first ones connect


def _late_s(seconds: float) -> list[float]:
    """Returns by how much sleeps of this process are too long, as the sleeps of server and generator are."""
    late_s: list[float] = []
    for _ in range(round(seconds / _WAIT_S)):
        began_s = time.monotonic()
        time.sleep(_WAIT_S)
        late_s.append(time.monotonic() - began_s - _WAIT_S)
    return late_s


async def paused_load(plan: Plan, rate_hz: float) -> Paused:
    """Stops the server's process for a second in the middle of an open loop."""
    with Null(0).start() as server:

        async def pause() -> None:
            await asyncio.sleep(plan.seconds / 2)
            process = psutil.Process(server.pid)
            process.suspend()
            await asyncio.sleep(_PAUSE_S)
            process.resume()

        async def load(bench: Bench) -> Phase:
            phase, _ = await asyncio.gather(bench.open(rate_hz), pause())
            return phase

        return Paused(await on_bench(plan, server, load), _PAUSE_S)


async def _on(plan: Plan, null: Null, load: Callable[[Bench], Coroutine[None, None, Phase]]) -> Phase:
    with null.start() as server:
        return await on_bench(plan, server, load)


def _say(what: str, found: str, reached: bool) -> None:
    print(f"{what}: {found} ({'goal reached' if reached else 'GOAL MISSED'})", flush=True)
