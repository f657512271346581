"""Searches the highest rate that a server sustains within a latency objective."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from load.bench import Bench
from load.generator import Call
from load.histogram import carries
from load.phase import Phase


@dataclass(frozen=True)
class Objective:
    """A bound on a percentile of latency, such as `p99<=500ms`. Calls that aren't answered OK count as late.

    Args:
        percentile: percentile of the latencies of all calls.
        seconds: largest latency at that percentile.
    """

    percentile: float
    seconds: float

    def __str__(self) -> str:
        return f"p{self.percentile:g} <= {self.seconds * 1e3:g} ms"

    def late_allowed(self, calls: int) -> int:
        """Returns how many of this many calls may be late."""
        return int(calls * (100 - self.percentile) / 100 + 1e-9)


def parse_objective(text: str) -> Objective:
    """Parses an objective such as `p99<=500ms` or `p90<=2s`; raises ValueError for other texts."""
    found = re.fullmatch(r"p(\d{2}(?:\.\d+)?)\s*<=\s*(\d+(?:\.\d+)?)\s*(ms|s)", text.strip())
    if found is None:
        raise ValueError(f"an objective is written as p99<=500ms, not {text!r}")
    return Objective(float(found[1]), float(found[2]) * (0.001 if found[3] == "ms" else 1))


@dataclass(frozen=True)
class Capacity:
    """The outcome of a search.

    Args:
        objective: the objective in words.
        sustained_hz: highest rate at which the objective was held; 0 if there is none.
        missed_hz: lowest higher rate at which it was missed; 0 if it was held at every rate.
        cores: number of cores of the machine.
        probes: all loads that were tried, in order.
        held: whether each of them held the objective.
    """

    objective: str
    sustained_hz: float
    missed_hz: float
    cores: int
    probes: tuple[Phase, ...]
    held: tuple[bool, ...]

    @property
    def per_core_hz(self) -> float:
        """The sustained rate for each core of the machine, which server and generator share."""
        return self.sustained_hz / self.cores


class Judge:
    """Counts late calls, so that a probe whose outcome is certain can end early.

    Args:
        objective: the bound beyond which a call is late.
        calls: number of calls of the probe.
    """

    def __init__(self, objective: Objective, calls: int) -> None:
        self._objective, self._allowed, self._late = objective, objective.late_allowed(calls), 0

    def missed(self, call: Call) -> bool:
        """Counts a call; returns whether more calls are late by now than the objective allows."""
        self._late += call.answer.status != "OK" or call.latency_s > self._objective.seconds
        return self._late > self._allowed

    @property
    def held(self) -> bool:
        """Whether the objective is held so far."""
        return self._late <= self._allowed


@dataclass(frozen=True)
class Search:
    """A search for the highest rate at which an objective is held.

    Args:
        objective: the objective to hold.
        cores: number of cores of the machine.
        closeness: ratio of missed to held rate at which the search ends; 1.05 is within 5 %.
        most_probes: largest number of loads that are tried.
    """

    objective: Objective
    cores: int
    closeness: float
    most_probes: int

    async def run(self, bench: Bench, throughput_hz: float, tell: Callable[[str], None]) -> Capacity:
        """Searches from 70 % of the closed loop's throughput, down to 5 % of it and up without a bound."""
        held_hz, missed_hz, rate_hz = 0.0, 0.0, 0.7 * throughput_hz
        probes: list[Phase] = []
        verdicts: list[bool] = []
        while len(probes) < self.most_probes and rate_hz >= 0.05 * throughput_hz:
            calls = bench.calls_at(rate_hz)
            if not carries(calls, self.objective.percentile):
                raise SystemExit(f"load: {calls} calls don't carry p{self.objective.percentile:g}: raise --calls")
            judge = Judge(self.objective, calls)
            probes.append(await bench.open(rate_hz, judge.missed))
            verdicts.append(judge.held)
            tell(f"{self.objective} at {rate_hz:.2f}/s: {'held' if judge.held else 'missed'}")
            held_hz, missed_hz = (rate_hz, missed_hz) if judge.held else (held_hz, rate_hz)
            if held_hz and missed_hz and missed_hz / held_hz <= self.closeness:
                break
            rate_hz = _next_hz(held_hz, missed_hz)
        return Capacity(str(self.objective), held_hz, missed_hz, self.cores, tuple(probes), tuple(verdicts))


def _next_hz(held_hz: float, missed_hz: float) -> float:
    """Returns the next rate: the geometric mean of both bounds, or a step beyond the only bound."""
    if not missed_hz:
        return held_hz * 1.25
    return (held_hz * missed_hz) ** 0.5 if held_hz else missed_hz / 2
