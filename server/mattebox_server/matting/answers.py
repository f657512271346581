"""What the map of a network shows about itself: how sure it is, how fine it is, and how much it needs the photo.

docs/decisions/007-guided-matte.md has the measurements that chose the parameters.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.matting.grid import Grid

SURE = (0.02, 0.98)
"""Probabilities beyond which the network decides alone."""

_SHARPNESS = 20.0  # slope of the sigmoid that sharpens the probability
_UNSURE = (0.1, 0.9)  # probabilities between which the network counts as unsure; the width of that band is the radius
_MIN_RADIUS = 0.02  # smallest radius of the windows, in short sides of the photo
_MAX_RADII = (0.06, 0.03)  # largest radii of the first and the second run, in short sides of the photo
_SETTLED = (0.1, 0.8)  # probabilities that mean 0 and 1 in a map that needs the photo
_FINE_PX = (1.0, 1.5)  # pixels of the photo beside one of the map, from where and to where the photo's share grows


@dataclass(frozen=True)
class Answer:
    """The answer of a network to a photo, over which a grid lies. Its planes are uint8, round(255 x probability)."""

    grid: Grid
    found: Pixels  # at the network's own resolution
    probability: Pixels  # at the grid's cells, (rows, columns)
    parts: int  # into which each cell is divided along each side, to be as fine as the network's own resolution
    need: float  # the largest share of the photo in the matte, in [0, 1]

    @staticmethod
    def over(grid: Grid, found: Pixels) -> "Answer":
        """Samples a probability uint8 (h, w) that covers the whole photo."""
        probability, pixel_px = grid.sample(found), grid.pixel_px(found)
        return Answer(grid, found, probability, grid.parts(pixel_px), need_of_photo(probability, pixel_px))

    def sharp(self) -> Pixels:
        """Returns the sharpened probability at the cells, uint8 (rows, columns)."""
        return self.grid.sample(sharpen(self.found))

    def settled(self) -> Pixels:
        """Returns the settled probability at the cells of `grid.divided(parts)`, uint8 of their size."""
        return self.grid.divided(self.parts).sample(settled(self.found, self.need))


def need_of_photo(probability: Pixels, pixel_px: float) -> float:
    """Returns the largest share of the photo in a matte, in [0, 1].

    It is 0 for a map with as many pixels as the photo, whose finest edges colours could only blur, and 1 for maps that
    are coarser, or from a network that is unsure in a band clearly wider than the smallest windows. `probability` is
    the map uint8 (h, w) at the guide's resolution; `pixel_px` is how many pixels of the photo one of the map is wide.
    """
    coarse = (pixel_px - _FINE_PX[0]) / (_FINE_PX[1] - _FINE_PX[0])
    if coarse >= 1:
        return 1.0
    unsure = (_unsure_width(probability) - _MIN_RADIUS) / (min(_MAX_RADII) - _MIN_RADIUS)
    return min(1.0, max(0.0, coarse, unsure))


def settled(probability: Pixels, need: float) -> Pixels:
    """Returns the alpha uint8 (h, w) that a probability uint8 (h, w) means by itself.

    Of a map that needs no photo only what is sure becomes 0 and 255. The more it needs one, the less is the slow rise
    at its edges the subject's own. A hole in the subject is worse than a haze beside it, so that it is filled earlier.
    """
    low, high = (sure + (level - sure) * need for sure, level in zip(SURE, _SETTLED, strict=True))
    levels = np.interp(np.arange(256) / 255, (low, 0.5, high), (0, 127.5, 255))
    return cv2.LUT(probability, np.rint(levels).astype(np.uint8))


def radii(probability: Pixels) -> tuple[float, float]:
    """Returns the radii of the windows of both runs, in short sides of the photo.

    They are the mean width of the band in which the network is unsure, within limits, so that fine edges stay fine.
    """
    width = _unsure_width(probability)
    first, second = (min(most, max(_MIN_RADIUS, width)) for most in _MAX_RADII)
    return first, second


def _unsure_width(probability: Pixels) -> float:
    """Returns the mean width of the band in which the network is unsure, in short sides."""
    low, high = (round(255 * bound) for bound in _UNSURE)
    unsure = cv2.countNonZero(cv2.inRange(probability, low, high))
    subject = (probability > 127).astype(np.uint8)
    # The gradient marks an edge on both of its sides.
    edge = cv2.countNonZero(cv2.morphologyEx(subject, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))) / 2
    height, width = probability.shape
    return float(unsure / max(1, edge) / min(height, width))


def sharpen(probability: Pixels) -> Pixels:
    """Makes a probability uint8 (h, w) steeper around one half, because a soft ramp would be copied into the matte.

    It comes before the scaling to the guide's resolution, so that a cell's mean is the subject's share of the cell.
    """
    levels = np.arange(256) / 255
    return cv2.LUT(probability, np.rint(255 / (1 + np.exp(-_SHARPNESS * (levels - 0.5)))).astype(np.uint8))
