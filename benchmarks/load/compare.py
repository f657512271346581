"""`make bench-compare A=folder B=folder`: the figures of two runs as ratios B / A, with 95 % intervals.

The intervals are bootstrapped from tenths of each load's time, because calls that follow each other depend on each
other. The intervals cover the chance within the two runs, not what else the machine did during one of them: two runs of
the same checkout show how much that is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load.histogram import Histogram
from load.phase import Phase
from load.results import Measured, Results

_DRAWS, _LEVEL = 2000, 95.0
_PERCENTILES = (50.0, 90.0, 99.0)
_SAME_RATE = 0.02

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The ratio B / A of one figure.

    Args:
        what: name of the figure and of the load.
        low: lower end of the interval of B / A.
        high: upper end of the interval.
        more_is_worse: True for a latency, False for a throughput.
    """

    what: str
    low: float
    high: float
    more_is_worse: bool

    @property
    def verdict(self) -> str:
        """Whether B is better or worse, where the interval excludes 1."""
        if self.low <= 1 <= self.high:
            return "no difference seen"
        return "worse" if (self.low > 1) == self.more_is_worse else "better"

    def __str__(self) -> str:
        return f"{self.verdict:<18}  {self.what}: B / A = {self.low:.3f} to {self.high:.3f}"


def compare(a: Results, b: Results) -> list[Difference]:
    """Compares all figures that both runs have under the same load.

    Raises:
        SystemExit: the runs sent different photos, or have no load in common.
    """
    if a.photos != b.photos:
        raise SystemExit(f"load: A sent {a.photos}, B {b.photos}: that can't be compared")
    ours = {each.label: each for each in a.measured if not each.reason}
    pairs = [(ours[each.label], each) for each in b.measured if each.label in ours and not each.reason]
    found = [difference for one, other in pairs for difference in _of_subject(one, other)]
    if not found:
        raise SystemExit("load: the runs have no load in common: --rates-of A gives B the rates of A")
    return found


def _of_subject(a: Measured, b: Measured) -> list[Difference]:
    found: list[Difference] = []
    for one in (*a.closed, *a.swept):
        for other in (*b.closed, *b.swept):
            if _same(one, other):
                found += _of_phase(f"{a.label}, {one.load.label}", one, other)
    if a.footprint and b.footprint:
        starts = (np.array(a.footprint.starts_s), np.array(b.footprint.starts_s))
        found.append(_difference(f"{a.label}, cold start", _medians(starts[0], 1), _medians(starts[1], 2)))
    if a.capacity and b.capacity and a.capacity.objective == b.capacity.objective:
        low, high = _bracket(a.capacity.sustained_hz, a.capacity.missed_hz)
        other_low, other_high = _bracket(b.capacity.sustained_hz, b.capacity.missed_hz)
        if low and other_low:
            what = f"{a.label}, held at {a.capacity.objective} (what the searches leave open)"
            found.append(Difference(what, other_low / high, other_high / low, more_is_worse=False))
    return found


def _of_phase(what: str, a: Phase, b: Phase) -> list[Difference]:
    found: list[Difference] = []
    for percentile in _PERCENTILES:
        if all(Histogram(phase.latency).percentile_s(percentile) is not None for phase in (a, b)):
            draws = [_percentiles(phase, percentile, seed) for seed, phase in enumerate((a, b))]
            found.append(_difference(f"{what}, p{percentile:g}", *draws))
    if a.load.kind == "closed":
        rates = [_rates(phase, seed) for seed, phase in enumerate((a, b))]
        low, high = _interval(*rates)
        found.append(Difference(f"{what}, answered a second", low, high, more_is_worse=False))
    return found


def _same(a: Phase, b: Phase) -> bool:
    near = abs(a.load.amount - b.load.amount) <= _SAME_RATE * a.load.amount
    return (a.load.kind, a.load.arrivals) == (b.load.kind, b.load.arrivals) and near


def _percentiles(phase: Phase, percentile: float, seed: int) -> Draws:
    """Returns the percentile of each bootstrap sample, which is made of tenths drawn with replacement."""
    parts = [Histogram(block).buckets() for block in phase.blocks]
    values_s = np.unique(np.concatenate([values for values, _ in parts]))
    counts = np.zeros((len(parts), len(values_s)))
    for row, (values, count) in zip(counts, parts, strict=True):
        row[np.searchsorted(values_s, values)] = count
    summed = np.cumsum(_weights(len(parts), seed) @ counts, axis=1)
    ranks = np.ceil(summed[:, -1:] * percentile / 100).clip(min=1)
    return np.asarray(values_s[np.argmax(summed >= ranks, axis=1)], np.float64)


def _rates(phase: Phase, seed: int) -> Draws:
    counts = np.array([Histogram(block).count for block in phase.blocks], np.float64)
    return np.asarray(_weights(len(counts), seed) @ counts, np.float64) / (phase.seconds + phase.drained_s)


def _medians(values: NDArray[np.float64], seed: int) -> Draws:
    drawn = np.random.default_rng(seed).choice(values, (_DRAWS, len(values)))
    return np.asarray(np.median(drawn, axis=1), np.float64)


def _weights(parts: int, seed: int) -> Draws:
    return np.random.default_rng(seed).multinomial(parts, [1 / parts] * parts, _DRAWS).astype(np.float64)


def _difference(what: str, a: Draws, b: Draws) -> Difference:
    low, high = _interval(a, b)
    return Difference(what, low, high, more_is_worse=True)


def _interval(a: Draws, b: Draws) -> tuple[float, float]:
    ratios = b / np.maximum(a, 1e-9)
    low, high = np.percentile(ratios, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(low), float(high)


def _bracket(sustained_hz: float, missed_hz: float) -> tuple[float, float]:
    return sustained_hz, missed_hz or float("inf")


def show(differences: Sequence[Difference], tell: Callable[[str], None]) -> None:
    """Prints the differences, those that are worse first."""
    order = ("worse", "better", "no difference seen")
    for difference in sorted(differences, key=lambda each: order.index(each.verdict)):
        tell(str(difference))
