"""Means in windows, computed in float64 and pixel by pixel, for tests to compare with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.floating[Any]]

_WIDE_PX = 3


@dataclass(frozen=True)
class PlainWindows:
    """Windows of an image with sides of an even number of pixels; wide ones lie around blocks of 2x2 pixels."""

    radius_px: float

    @property
    def is_wide(self) -> bool:
        return self.radius_px >= _WIDE_PX

    @property
    def side(self) -> int:
        return round(self.radius_px + 0.5) if self.is_wide else 2 * max(1, round(self.radius_px)) + 1

    def means(self, image: Doubles) -> Doubles:
        """Returns the mean of an image (h, w, ...) in each window, whose border mirrors the image."""
        if self.is_wide:
            image = (image[::2, ::2] + image[::2, 1::2] + image[1::2, ::2] + image[1::2, 1::2]) / 4
        return _blurred(image, self.side, self.side // 2)

    def spread(self, values: Doubles) -> Doubles:
        """Returns for each pixel the mean of the values of the windows that hold it."""
        return self.enlarged(self.around(values))

    def around(self, values: Doubles) -> Doubles:
        """Returns for each window the mean of the values of the windows that hold its centre."""
        return _blurred(values, self.side, self.side - 1 - self.side // 2)

    def enlarged(self, values: Doubles) -> Doubles:
        """Returns the values of windows at all pixels, bilinearly between the windows' centres."""
        return _doubled(_doubled(values, 0), 1) if self.is_wide else values


def _doubled(values: Doubles, axis: int) -> Doubles:
    last: int = values.shape[axis] - 1
    place: Doubles = np.linspace(-0.25, last + 0.25, 2 * last + 2).clip(0, last)  # in windows, from the first's centre
    before = np.asarray(np.floor(place), np.int64)
    share: Doubles = (place - before).reshape(-1, *[1] * (values.ndim - axis - 1))
    after = np.minimum(before + 1, last)
    doubled: Doubles = np.take(values, before, axis) * (1 - share) + np.take(values, after, axis) * share
    return doubled


def _blurred(image: Doubles, side: int, before: int) -> Doubles:
    return _blurred_along(_blurred_along(image, side, before, 0), side, before, 1)


def _blurred_along(image: Doubles, side: int, before: int, axis: int) -> Doubles:
    count: int = image.shape[axis]
    places: NDArray[np.int64] = (np.arange(count)[:, np.newaxis] + np.arange(side) - before) % (2 * count)
    means: Doubles = np.take(image, np.minimum(places, 2 * count - 1 - places), axis).mean(axis=axis + 1)
    return means
