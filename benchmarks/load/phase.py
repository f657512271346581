"""What is kept of one load that a server was under."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from load.generator import Call, Outcome
from load.histogram import PERCENTILES, Histogram, carries

BLOCKS = 10
SERVER_STAGES = ("decode", "preprocess", "queue", "infer", "matte", "encode")
STACKED = ("client", *SERVER_STAGES, "other", "transport")  # in the order in which they happen, nearly
_BUSY, _LATE, _LATE_S = 0.8, 0.05, 0.001


@dataclass(frozen=True)
class Load:
    """What was asked for.

    Args:
        kind: open or closed loop.
        amount: calls a second of the open loop, callers of the closed one.
        arrivals: of the open loop.
    """

    kind: Literal["open", "closed"]
    amount: float
    arrivals: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.amount:.1f}/s offered" if self.kind == "open" else f"{self.amount:.0f} at once"


@dataclass(frozen=True)
class Usage:
    """Processors' time while a load lasted, in cores: 1 is one core all the time."""

    generator_cores: float
    server_cores: float


@dataclass(frozen=True)
class Phase:
    """One load and what came of it. Histograms hold the calls that were answered OK, encoded.

    Args:
        load: what was asked for.
        seconds: from the first call that was due to the last that was; of a closed loop to the last answer.
        drained_s: from there to the last answer.
        statuses: how many calls ended how; "abandoned" are those that nobody waited for.
        within: calls answered OK within the objective.
        latency: from the time at which a call was due.
        service: from the time at which it went.
        lag: between these, of all calls.
        blocks: latency in ten equal parts of the time, by when calls were due.
        stages: by the server's own clock.
        stacks: seconds of each stage in the mean of the calls around a percentile of latency.
        bytes_in: mean size of a photo.
        bytes_out: mean size of a composite.
        usage: processors' time.
    """

    load: Load
    seconds: float
    drained_s: float
    statuses: dict[str, int]
    within: int
    latency: str
    service: str
    lag: str
    blocks: list[str]
    stages: dict[str, str] = field(repr=False)
    stacks: dict[str, dict[str, float]]
    bytes_in: float
    bytes_out: float
    usage: Usage

    @property
    def sent(self) -> int:
        """All calls."""
        return sum(self.statuses.values())

    @property
    def answered_hz(self) -> float:
        """Calls answered OK a second; of an open loop, the time in which the last ones were waited for counts."""
        return self.statuses.get("OK", 0) / (self.seconds + self.drained_s)

    @property
    def goodput_hz(self) -> float:
        """Calls answered OK within the objective, a second."""
        return self.within / (self.seconds + self.drained_s)

    def complaints(self) -> list[str]:
        """Why the generator may have been what was measured."""
        lag_s = Histogram(self.lag).quantile_s(99)
        found: list[str] = []
        if self.usage.generator_cores > _BUSY:
            found.append(f"it used {self.usage.generator_cores:.0%} of a core")
        if self.load.kind == "open" and lag_s > max(_LATE_S, _LATE * Histogram(self.latency).quantile_s(50)):
            found.append(f"one call in a hundred went {lag_s * 1e3:.1f} ms late or more")
        return found


def summarise(load: Load, outcome: Outcome, times_s: tuple[float, float], objective_s: float, usage: Usage) -> Phase:
    """What is kept.

    Args:
        load: what was asked for.
        outcome: calls; at least one.
        times_s: when the first call was due and when the load ended, by the calls' clock.
        objective_s: of latency.
        usage: processors' time.
    """
    began_s, ended_s = times_s
    answered = [call for call in outcome.calls if call.answer.status == "OK"]
    statuses = Counter(call.answer.status for call in outcome.calls)
    if outcome.abandoned:
        statuses["abandoned"] = outcome.abandoned
    names = sorted({name for call in answered for name in call.answer.stages_s})
    return Phase(
        load,
        seconds=ended_s - began_s,
        drained_s=max(0.0, max((call.done_s for call in outcome.calls), default=ended_s) - ended_s),
        statuses=dict(statuses),
        within=sum(call.latency_s <= objective_s for call in answered),
        latency=Histogram.of(call.latency_s for call in answered).encoded(),
        service=Histogram.of(call.service_s for call in answered).encoded(),
        lag=Histogram.of(call.sent_s - call.due_s for call in outcome.calls).encoded(),
        blocks=_blocks(answered, began_s, ended_s),
        stages={name: Histogram.of(_stage(answered, name)).encoded() for name in names},
        stacks=_stacks(answered),
        bytes_in=fmean([call.bytes_in for call in outcome.calls] or [0]),
        bytes_out=fmean([call.answer.bytes_out for call in answered] or [0]),
        usage=usage,
    )


def _stage(calls: Sequence[Call], name: str) -> list[float]:
    return [call.answer.stages_s[name] for call in calls if name in call.answer.stages_s]


def _blocks(calls: Sequence[Call], began_s: float, ended_s: float) -> list[str]:
    blocks = [Histogram() for _ in range(BLOCKS)]
    for call in calls:
        share = (call.due_s - began_s) / max(1e-9, ended_s - began_s)
        blocks[min(BLOCKS - 1, max(0, int(share * BLOCKS)))].record(call.latency_s)
    return [block.encoded() for block in blocks]


def _stacks(calls: Sequence[Call]) -> dict[str, dict[str, float]]:
    """At each percentile that the sample carries: the mean of a twentieth of the calls, or five, around its rank."""
    told = sorted((call for call in calls if call.answer.stages_s), key=lambda call: call.latency_s)
    stacks: dict[str, dict[str, float]] = {}
    for percentile in PERCENTILES:
        if carries(len(told), percentile):
            rank = round(len(told) * percentile / 100)
            half = min(max(2, len(told) // 40), len(told) - rank)
            parts = [_parts(call) for call in told[max(0, rank - half) : rank + half + 1]]
            stacks[f"p{percentile:g}"] = {name: fmean(part[name] for part in parts) for name in STACKED}
    return stacks


def _parts(call: Call) -> dict[str, float]:
    """Seconds of one call; their sum is its latency."""
    stages_s = call.answer.stages_s
    parts = {name: stages_s.get(name, 0.0) for name in SERVER_STAGES}
    total_s = stages_s.get("total", sum(parts.values()))
    parts["other"] = total_s - sum(parts.values())
    parts["transport"] = call.service_s - total_s
    parts["client"] = call.latency_s - call.service_s
    return parts
