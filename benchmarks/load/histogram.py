"""Histograms of durations: HdrHistogram, from a microsecond to an hour, with three digits."""

from collections.abc import Iterable

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BEYOND = 5  # samples that must lie beyond a percentile: p90 takes 50 samples, p99 500, p99.9 5000
_LONGEST_US = 3_600_000_000


class Histogram:
    """A histogram of durations.

    Args:
        encoded: the text that `encoded` returned; "" for an empty histogram.
    """

    def __init__(self, encoded: str = "") -> None:
        self._inner = HdrHistogram.decode(encoded) if encoded else HdrHistogram(1, _LONGEST_US, 3)

    @staticmethod
    def of(durations_s: Iterable[float]) -> "Histogram":
        """Returns a histogram of these durations."""
        histogram = Histogram()
        for duration_s in durations_s:
            histogram.record(duration_s)
        return histogram

    def record(self, duration_s: float) -> None:
        """Counts a duration; less than a microsecond counts as one, more than an hour raises ValueError."""
        if not self._inner.record_value(max(1, round(duration_s * 1e6))):
            raise ValueError(f"{duration_s} s don't fit into the histogram")

    @property
    def count(self) -> int:
        """The number of durations."""
        return self._inner.get_total_count()

    @property
    def max_s(self) -> float:
        """The longest duration; 0 in an empty histogram."""
        return self._inner.get_max_value() / 1e6 if self.count else 0.0

    @property
    def mean_s(self) -> float:
        """The mean duration; 0 in an empty histogram."""
        return float(self._inner.get_mean_value()) / 1e6 if self.count else 0.0

    def percentile_s(self, percentile: float) -> float | None:
        """Returns a percentile, or None where fewer than BEYOND samples lie beyond it."""
        return self.quantile_s(percentile) if carries(self.count, percentile) else None

    def quantile_s(self, percentile: float) -> float:
        """Returns a percentile even of few samples, for curves that print the number of samples beside them."""
        return self._inner.get_value_at_percentile(percentile) / 1e6

    def buckets(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns the durations, ascending, and the number of samples of each."""
        recorded = self._inner.get_recorded_iterator() if self.count else ()
        steps = [(step.value_iterated_to, step.count_added_in_this_iter_step) for step in recorded]
        return np.array([us / 1e6 for us, _ in steps], np.float64), np.array([count for _, count in steps], np.int64)

    def encoded(self) -> str:
        """Returns HdrHistogram's compressed form, base64."""
        return self._inner.encode().decode()


def carries(count: int, percentile: float) -> bool:
    """Returns whether enough of this many samples lie beyond a percentile."""
    return count * (100 - percentile) / 100 >= BEYOND - 1e-9
