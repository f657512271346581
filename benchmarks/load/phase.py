"""The figures of one load that was put on a server."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from load.generator import Call, Outcome
from load.histogram import PERCENTILES, Histogram, carries

BLOCKS = 10
SERVER_STAGES = ("decode", "preprocess", "queue", "infer", "matte", "encode")
STACKED = ("client", *SERVER_STAGES, "other", "transport")  # nearly in the order in which they happen
_BUSY, _LATE, _LATE_S = 0.8, 0.05, 0.001


@dataclass(frozen=True)
class Load:
    """A load to put on a server.

    Args:
        kind: open or closed loop.
        amount: calls a second of an open loop, number of callers of a closed loop.
        arrivals: distribution of the open loop's calls in time.
    """

    kind: Literal["open", "closed"]
    amount: float
    arrivals: str = ""

    @property
    def label(self) -> str:
        """The load in words."""
        return f"{self.amount:.1f}/s offered" if self.kind == "open" else f"{self.amount:.0f} at once"


@dataclass(frozen=True)
class Usage:
    """Processor time during a load, in cores: 1 is one core all of the time."""

    generator_cores: float
    server_cores: float


@dataclass(frozen=True)
class Phase:
    """One load and its figures. Encoded histograms hold the calls that were answered OK.

    Args:
        load: the load that was put on the server.
        seconds: time from the first to the last call of an open loop; to the last answer of a closed loop.
        drained_s: time from there to the last answer.
        statuses: number of calls of each status; "abandoned" are calls of a loop that was given up.
        within: number of calls that were answered OK within the objective.
        latency: histogram of the seconds from the time at which a call was due.
        service: histogram of the seconds from the time at which a call was made.
        lag: histogram of the seconds between both, of all calls.
        blocks: histograms of latency in ten equal parts of the time, by when the calls were due.
        stages: histogram of the seconds of each stage, by the server's own clock.
        stacks: mean seconds of each stage, over the calls around each percentile of latency.
        bytes_in: mean size of a photo.
        bytes_out: mean size of a composite.
        usage: processor time.
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
        """The number of all calls."""
        return sum(self.statuses.values())

    @property
    def answered_hz(self) -> float:
        """Calls that were answered OK, a second, up to the last answer."""
        return self.statuses.get("OK", 0) / (self.seconds + self.drained_s)

    @property
    def goodput_hz(self) -> float:
        """Calls that were answered OK within the objective, a second, up to the last answer."""
        return self.within / (self.seconds + self.drained_s)

    def complaints(self) -> list[str]:
        """Returns the reasons for which these figures may be the generator's rather than the server's."""
        lag_s = Histogram(self.lag).quantile_s(99)
        found: list[str] = []
        if self.usage.generator_cores > _BUSY:
            found.append(f"it used {self.usage.generator_cores:.0%} of a core")
        if self.load.kind == "open" and lag_s > max(_LATE_S, _LATE * Histogram(self.latency).quantile_s(50)):
            found.append(f"one call in a hundred went {lag_s * 1e3:.1f} ms late or more")
        return found


def summarise(load: Load, outcome: Outcome, times_s: tuple[float, float], objective_s: float, usage: Usage) -> Phase:
    """Returns the figures of a load.

    Args:
        load: the load that was put on the server.
        outcome: the calls, at least one.
        times_s: times of the first call and of the load's end, by the calls' clock.
        objective_s: latency within which an answer counts as goodput.
        usage: processor time.
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
    """Returns the mean stages of a twentieth of the calls, five at least, at each percentile with enough samples."""
    timed = sorted((call for call in calls if call.answer.stages_s), key=lambda call: call.latency_s)
    stacks: dict[str, dict[str, float]] = {}
    for percentile in PERCENTILES:
        if carries(len(timed), percentile):
            rank = round(len(timed) * percentile / 100)
            half = min(max(2, len(timed) // 40), len(timed) - rank)
            parts = [_parts(call) for call in timed[max(0, rank - half) : rank + half + 1]]
            stacks[f"p{percentile:g}"] = {name: fmean(part[name] for part in parts) for name in STACKED}
    return stacks


def _parts(call: Call) -> dict[str, float]:
    """Returns the seconds of each part of a call, whose sum is its latency."""
    stages_s = call.answer.stages_s
    parts = {name: stages_s.get(name, 0.0) for name in SERVER_STAGES}
    total_s = stages_s.get("total", sum(parts.values()))
    parts["other"] = total_s - sum(parts.values())
    parts["transport"] = call.service_s - total_s
    parts["client"] = call.latency_s - call.service_s
    return parts
