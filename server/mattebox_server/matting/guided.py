"""Makes mattes whose edges follow the photo: the colour guided filter, at low resolution, with enlarged coefficients.

The method is that of He, Sun and Tang, "Guided Image Filtering", 2010 (equations 14 and 15, for a guide in colour), and
of He and Sun, "Fast Guided Filter", 2015, which filters a small image and applies the coefficients to the large one. In
each window the filter explains alpha as a linear function of colour, and each pixel takes the mean of the coefficients
of all windows that hold it. docs/decisions/007-guided-matte.md has what Mattebox adds (windows as wide as the network
is unsure, a sharpened probability, a second run), and the measurements that chose the parameters.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.matting.grid import Grid
from mattebox_server.matting.windows import Windows

CELLS = (200, 800)
"""The largest number of cells along the photo's short and long side."""

_SHARPNESS = 20.0  # slope of the sigmoid that sharpens the probability
_SURE = (0.02, 0.98)  # probabilities beyond which the network decides alone
_UNSURE = (0.1, 0.9)  # probabilities between which the network counts as unsure; the width of that band is the radius
_MIN_RADIUS = 0.02  # smallest radius of the windows, in short sides of the photo
_MAX_RADII = (0.06, 0.03)  # largest radii of the first and the second run, in short sides of the photo
_EPSILON = 1e-4  # variance of colours in [0, 1] that counts as flat
_GAIN = 1.5  # contrast around 0.5 that the second run's input gets; with more, lines thinner than a cell are lost
_LEVELS = (0.1, 0.9)  # levels that become 0 and 1, because the mean of windows hardly reaches 0 or 1
_REACH_CELLS = 1  # cells beside an edge in which the photo still decides


@dataclass(frozen=True)
class LinearMatte:
    """Alpha as a linear function of the photo's colours, with coefficients for every cell.

    Alpha is the weighted sum of blue, green and red in [0, 255] plus a constant, rounded and clipped to [0, 255].
    """

    alpha: Pixels  # the matte at the guide's resolution, uint8 (h, w)
    coefficients: Floats  # the weights of blue, green, red and an opaque alpha (255), float32 (h, w, 4)
    edge: NDArray[np.bool_]  # (h, w); where it is False the weights of colours are 0, and the constant is 0 or 255

    def render(self, photo: Pixels, grid: Grid) -> Pixels:
        """Returns the matte uint8 (H, W) of the photo uint8 (H, W, 3) BGR, over which the grid lies."""
        alpha = grid.nearest(self.alpha)
        coefficients = grid.enlarger(self.coefficients)
        for strip in grid.strips_near(self.edge):
            explained = coefficients.at(strip)
            explained *= cv2.cvtColor(strip.pack(photo), cv2.COLOR_BGR2BGRA)
            blue, green, red, constant = cv2.split(explained)
            strip.unpack(_levels(blue + green + red + constant), alpha)
        return alpha


def guided(photo: Pixels, probability: Pixels, sharp: Pixels) -> LinearMatte:
    """Makes a matte with the edges of a photo at low resolution, uint8 (h, w, 3) BGR.

    `probability` is round(255 x probability of the subject), uint8 (h, w), and `sharp` is the same after `sharpen` at
    the network's own resolution.
    """
    return refine(Guide(photo), probability, unit(sharp), radii(probability))


def radii(probability: Pixels) -> tuple[float, float]:
    """Returns the radii of the windows of both runs, in short sides of the photo.

    They are the mean width of the band in which the network is unsure, within limits, so that fine edges stay fine.
    """
    low, high = (round(255 * bound) for bound in _UNSURE)
    unsure = cv2.countNonZero(cv2.inRange(probability, low, high))
    subject = (probability > 127).astype(np.uint8)
    # The gradient marks an edge on both of its sides.
    edge = cv2.countNonZero(cv2.morphologyEx(subject, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))) / 2
    width = unsure / max(1, edge) / min(probability.shape)
    first, second = (min(most, max(_MIN_RADIUS, width)) for most in _MAX_RADII)
    return first, second


def sharpen(probability: Pixels) -> Pixels:
    """Makes a probability uint8 (h, w) steeper around one half, because a soft ramp would be copied into the matte.

    It comes before the scaling to the guide's resolution, so that a cell's mean is the subject's share of the cell.
    """
    levels = np.arange(256) / 255
    return cv2.LUT(probability, np.rint(255 / (1 + np.exp(-_SHARPNESS * (levels - 0.5)))).astype(np.uint8))


def unit(plane: Pixels) -> Floats:
    """Converts uint8 to float32 in [0, 1]."""
    return plane.astype(np.float32) / np.float32(255)


def _levels(alpha: Floats) -> Pixels:
    """Rounds and clips float32 to uint8."""
    rounded: Floats = np.rint(alpha.clip(0, 255))
    return rounded.astype(np.uint8)


class Guide:
    """A photo uint8 (h, w, 3) BGR at low resolution, as the guide of the filter."""

    def __init__(self, photo: Pixels) -> None:
        self._colors: list[Floats] = [unit(color) for color in cv2.split(photo)]
        self._statistics: dict[Windows, _Statistics] = {}

    def filtered(self, rough: Floats, radius: float) -> Floats:
        """Filters a rough matte float32 (h, w) in [0, 1] once, and raises the contrast of the result."""
        contrast = self.apply(*self.explain(rough, radius))
        contrast *= _GAIN
        contrast -= (_GAIN - 1) / 2
        return np.clip(contrast, 0, 1, out=contrast)

    def explain(self, target: Floats, radius: float) -> tuple[list[Floats], Floats]:
        """Returns the weights of blue, green and red and the constants that explain a target best, all float32 (h, w).

        The radius of the windows is in short sides of the guide.
        """
        windows = Windows.over(target.shape[1], target.shape[0], radius)
        if windows not in self._statistics:
            self._statistics[windows] = _Statistics.of(self._colors, windows)
        return self._statistics[windows].explain(target)

    def apply(self, weights: list[Floats], constants: Floats) -> Floats:
        """Returns the weighted sum of the guide's colours plus the constants, float32 (h, w)."""
        blue, green, red = (color * weight for color, weight in zip(self._colors, weights, strict=True))
        return blue + green + red + constants


def refine(guide: Guide, probability: Pixels, rough: Floats, radii: tuple[float, float]) -> LinearMatte:
    """Filters a rough matte float32 (h, w) in [0, 1] twice; `probability` decides alone where the network is sure.

    The second run filters the result of the first, so that it reaches an edge that the network missed by more than a
    window. The radii of both runs are in short sides of the guide.
    """
    weights, constants = guide.explain(guide.filtered(rough, radii[0]), radii[1])
    low, high = _LEVELS
    weights, constants = [weight / (high - low) for weight in weights], (constants - low) / (high - low)
    alpha = _levels(guide.apply(weights, constants) * 255)
    np.putmask(alpha, probability <= round(255 * _SURE[0]), 0)
    np.putmask(alpha, probability >= round(255 * _SURE[1]), 255)
    return _flat_away_from_edges(alpha, weights, constants)


def _flat_away_from_edges(alpha: Pixels, weights: list[Floats], constants: Floats) -> LinearMatte:
    window = np.ones((2 * _REACH_CELLS + 1,) * 2, np.uint8)
    edge = (cv2.dilate(alpha, window) != cv2.erode(alpha, window)) | (cv2.inRange(alpha, 1, 254) > 0)
    planes = [cv2.copyTo(weight, edge.view(np.uint8)) for weight in weights]  # the other weights become 0
    return LinearMatte(alpha, cv2.merge([*planes, np.where(edge, constants, unit(alpha))]), edge)


@dataclass(frozen=True)
class _Statistics:
    """The means and covariances of the guide's colours in each window, which all targets share.

    The covariances form a symmetric 3x3 matrix, of which the LDL decomposition (Gaussian elimination) is kept. It stays
    precise where the colours are all alike, as in a grey photo, and the matrix is nearly singular. All planes but the
    colours are float32 (rows, columns) of the windows.
    """

    colors: list[Floats]  # blue, green and red in [0, 1], float32 (h, w)
    windows: Windows
    means: tuple[Floats, Floats, Floats]  # of blue, green and red
    pivots: tuple[Floats, Floats, Floats]  # the diagonal of the decomposition
    rest: tuple[Floats, Floats, Floats]  # its other factors: of blue with green, blue with red, and green with red

    @staticmethod
    def of(colors: list[Floats], windows: Windows) -> "_Statistics":
        (blue, green, red), mean = colors, windows.means
        b, g, r = mean(blue), mean(green), mean(red)
        flat = np.float32(_EPSILON)
        bb, bg = flat + mean(blue * blue) - b * b, mean(blue * green) - b * g
        gg, gr = flat + mean(green * green) - g * g, mean(green * red) - g * r
        rr, br = flat + mean(red * red) - r * r, mean(blue * red) - b * r
        bg_b, br_b = bg / bb, br / bb
        gg, gr = gg - bg_b * bg, gr - bg_b * br
        gr_g = gr / gg
        rr = rr - br_b * br - gr_g * gr
        return _Statistics(colors, windows, (b, g, r), (bb, gg, rr), (bg_b, br_b, gr_g))

    def explain(self, target: Floats) -> tuple[list[Floats], Floats]:
        """Returns the weights of the colours and the constants that explain a target best, all float32 (h, w)."""
        (blue, green, red), mean = self.colors, self.windows.means
        (b, g, r), (bb, gg, rr), (bg_b, br_b, gr_g) = self.means, self.pivots, self.rest
        t = mean(target)
        # These are the covariances of each colour with the target, during the elimination.
        bt = mean(blue * target) - b * t
        gt = mean(green * target) - g * t - bg_b * bt
        rt = mean(red * target) - r * t - br_b * bt - gr_g * gt
        weight_r = rt / rr
        weight_g = gt / gg - gr_g * weight_r
        weight_b = bt / bb - bg_b * weight_g - br_b * weight_r
        constant = t - weight_b * b - weight_g * g - weight_r * r
        *weights, constants = (
            self.windows.enlarge(self.windows.smooth(each)) for each in (weight_b, weight_g, weight_r, constant)
        )
        return weights, constants
