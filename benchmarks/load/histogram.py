"""Durations, kept in full: HdrHistogram, microseconds to an hour, three digits."""

from collections.abc import Iterable

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BEYOND = 5  # so many samples must lie beyond a percentile: p90 from 50 on, p99 from 500, p99.9 from 5000
_LONGEST_US = 3_600_000_000


class Histogram:
    """Of durations.

    Args:
        encoded: what `encoded` of another returned; "" for an empty one.
    """

    def __init__(self, encoded: str = "") -> None:
        self._inner = HdrHistogram.decode(encoded) if encoded else HdrHistogram(1, _LONGEST_US, 3)

    @staticmethod
    def of(durations_s: Iterable[float]) -> "Histogram":
        """One with these."""
        histogram = Histogram()
        for duration_s in durations_s:
            histogram.record(duration_s)
        return histogram

    def record(self, duration_s: float) -> None:
        """Under a microsecond counts as one; more than an hour is refused."""
        if not self._inner.record_value(max(1, round(duration_s * 1e6))):
            raise ValueError(f"{duration_s} s don't fit into the histogram")

    @property
    def count(self) -> int:
        """How many there are."""
        return self._inner.get_total_count()

    @property
    def max_s(self) -> float:
        """The longest; 0 if there is none."""
        return self._inner.get_max_value() / 1e6 if self.count else 0.0

    @property
    def mean_s(self) -> float:
        """0 if there is none."""
        return float(self._inner.get_mean_value()) / 1e6 if self.count else 0.0

    def percentile_s(self, percentile: float) -> float | None:
        """None where the sample can't carry it: fewer than BEYOND samples lie beyond."""
        return self.quantile_s(percentile) if carries(self.count, percentile) else None

    def quantile_s(self, percentile: float) -> float:
        """Whatever the sample; for curves, which show how many there are."""
        return self._inner.get_value_at_percentile(percentile) / 1e6

    def buckets(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Seconds, ascending, and how many each."""
        recorded = self._inner.get_recorded_iterator() if self.count else ()
        steps = [(step.value_iterated_to, step.count_added_in_this_iter_step) for step in recorded]
        return np.array([us / 1e6 for us, _ in steps], np.float64), np.array([count for _, count in steps], np.int64)

    def encoded(self) -> str:
        """HdrHistogram's own compressed form, base64."""
        return self._inner.encode().decode()


def carries(count: int, percentile: float) -> bool:
    """Whether so many samples say something of a percentile."""
    return count * (100 - percentile) / 100 >= BEYOND - 1e-9
