"""Edges that follow the photo: the colour guided filter, at low resolution, its coefficients enlarged.

He, Sun and Tang, "Guided Image Filtering", 2010 (equations 14 and 15: a colour guide), and He and Sun, "Fast Guided
Filter", 2015 (filter a small image, apply the coefficients to the large one). In each window alpha is explained as a
linear function of colour; of the windows that hold a pixel the mean counts.

Mattebox's own: the windows are as large as the network is unsure, so that a network with fine edges keeps them; the
probability is sharpened first, as a soft ramp would be copied into the matte; the filter runs twice, the second time
over what the first found, so that an edge that the network missed by more than a window is still reached; and away from
edges, or where the network is sure, there is a constant, so that only edges cost work at full resolution.
docs/decisions/007-guided-matte.md has the measurements that chose the parameters.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.matting.grid import Grid

CELLS = (240, 960)
"""Cells that this wants along the photo's sides at most. 128 to 450 along the short one measured the same, but that
a line of two pixels in a photo of 480 can get lost between cells of three."""

_SHARPNESS = 20.0  # of the sigmoid that the probability goes through
_SURE = (0.02, 0.98)  # probabilities beyond which the network has the last word
_UNSURE = (0.1, 0.9)  # probabilities between which it is unsure: how wide that is along its edge is the radius
_MIN_RADIUS = 0.02  # of the windows, in short sides of the photo
_MAX_RADII = (0.06, 0.03)  # of those of the first and the second run
_EPSILON = 1e-4  # variance of colours in [0, 1] that counts as flat
_GAIN = 1.5  # contrast around 0.5 that the second run's input gets; more would lose what is thinner than a cell
_LEVELS = (0.1, 0.9)  # what becomes 0 and 1: a mean of windows hardly reaches either
_REACH_CELLS = 1  # beside an edge, within which the photo may still decide


@dataclass(frozen=True)
class LinearMatte:
    """Alpha as a linear function of the photo's colours, which changes from place to place.

    Args:
        alpha: uint8 (h, w), the matte at the guide's resolution.
        weights: float32 (h, w, 3), of blue, green and red in [0, 255].
        constants: float32 (h, w). The weighted sum and the constant, rounded and held to [0, 255], are alpha.
        edge: bool (h, w). Where it is False the weights are 0 and the constant is 0 or 255.
    """

    alpha: Pixels
    weights: Floats
    constants: Floats
    edge: NDArray[np.bool_]

    def render(self, photo: Pixels, grid: Grid) -> Pixels:
        """The matte uint8 (H, W) of the photo uint8 (H, W, 3) BGR, over which the grid lies."""
        alpha = grid.nearest(self.alpha)
        weights, constants = grid.enlarger(self.weights), grid.enlarger(self.constants)
        total = np.ones((1, 3), np.float32)
        for strip in grid.strips_near(self.edge):
            explained = cv2.multiply(weights.at(strip), strip.pack(photo).astype(np.float32))
            found = cv2.add(cv2.transform(explained, total), constants.at(strip), dtype=cv2.CV_8U)
            strip.unpack(found, alpha)
        return alpha


def guided(photo: Pixels, probability: Pixels, sharp: Pixels) -> LinearMatte:
    """A matte with the photo's edges.

    Args:
        photo: uint8 (h, w, 3) BGR, at low resolution.
        probability: uint8 (h, w), round(255 x probability of the subject).
        sharp: uint8 (h, w), the same, sharpened at the network's own resolution.
    """
    return refine(Guide(photo), probability, unit(sharp), radii(probability))


def radii(probability: Pixels) -> tuple[float, float]:
    """Of the windows of both runs, in short sides, from how wide the network of probability uint8 (h, w) is unsure."""
    low, high = (round(255 * bound) for bound in _UNSURE)
    unsure = cv2.countNonZero(cv2.inRange(probability, low, high))
    subject = (probability > 127).astype(np.uint8)
    # The gradient marks an edge on both of its sides.
    edge = cv2.countNonZero(cv2.morphologyEx(subject, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))) / 2
    width = unsure / max(1, edge) / min(probability.shape)
    first, second = (min(most, max(_MIN_RADIUS, width)) for most in _MAX_RADII)
    return first, second


def sharpen(probability: Pixels) -> Pixels:
    """Probability uint8 (h, w), steeper around a half.

    To be done before it is brought to the guide's resolution: a cell's mean is then how much of it the subject covers.
    """
    levels = np.arange(256) / 255
    return cv2.LUT(probability, np.rint(255 / (1 + np.exp(-_SHARPNESS * (levels - 0.5)))).astype(np.uint8))


def unit(plane: Pixels) -> Floats:
    """uint8 to float32 in [0, 1]."""
    return plane.astype(np.float32) / np.float32(255)


class Guide:
    """A photo at low resolution, whose colours alpha is explained with.

    Args:
        photo: uint8 (h, w, 3) BGR.
    """

    def __init__(self, photo: Pixels) -> None:
        self._colors: list[Floats] = list(cv2.split(photo.astype(np.float32) / 255))
        self._windows: dict[int, _Windows] = {}

    def filtered(self, rough: Floats, radius: float) -> Floats:
        """One run of the filter, with contrast: float32 (h, w) in [0, 1].

        Args:
            rough: float32 (h, w) in [0, 1], 1 subject.
            radius: of the windows, in short sides of the guide.
        """
        found = self.apply(*self.explain(rough, radius))
        contrast: Floats = (found - 0.5) * _GAIN + 0.5
        return np.clip(contrast, 0, 1)

    def explain(self, target: Floats, radius: float) -> tuple[list[Floats], Floats]:
        """Weights of the colours, and constants, that explain the target best in the windows around each pixel."""
        side = 2 * max(1, round(radius * min(target.shape))) + 1
        if side not in self._windows:
            self._windows[side] = _Windows.of(self._colors, side)
        return self._windows[side].explain(target)

    def apply(self, weights: list[Floats], constants: Floats) -> Floats:
        """What they make of the colours."""
        blue, green, red = (color * weight for color, weight in zip(self._colors, weights, strict=True))
        return blue + green + red + constants


def refine(guide: Guide, probability: Pixels, rough: Floats, radii: tuple[float, float]) -> LinearMatte:
    """Both runs of the filter.

    Args:
        guide: the photo.
        probability: uint8 (h, w), which is believed where it is sure.
        rough: float32 (h, w) in [0, 1], 1 subject, which is filtered.
        radii: of the windows of both runs, in short sides of the guide.
    """
    weights, constants = guide.explain(guide.filtered(rough, radii[0]), radii[1])
    low, high = _LEVELS
    weights, constants = [weight / (high - low) for weight in weights], (constants - low) / (high - low)
    alpha = np.rint(np.clip(guide.apply(weights, constants), 0, 1) * 255).astype(np.uint8)
    alpha[probability <= round(255 * _SURE[0])] = 0
    alpha[probability >= round(255 * _SURE[1])] = 255
    return _flat_away_from_edges(alpha, cv2.merge(weights), constants * 255)


def _flat_away_from_edges(alpha: Pixels, weights: Floats, constants: Floats) -> LinearMatte:
    window = np.ones((2 * _REACH_CELLS + 1,) * 2, np.uint8)
    edge = (cv2.dilate(alpha, window) != cv2.erode(alpha, window)) | ((alpha > 0) & (alpha < 255))
    weights = cv2.copyTo(weights, edge.astype(np.uint8))  # 0 elsewhere
    return LinearMatte(alpha, weights, np.where(edge, constants, alpha), edge)


@dataclass(frozen=True)
class _Windows:
    """The colours' means and covariances in the window around each pixel: what doesn't depend on the target.

    The covariances, a symmetric 3x3 matrix, are left as elimination leaves them, which stays precise where colours are
    all alike, as in a grey photo, and the matrix nearly singular. All are float32 (h, w).

    Args:
        colors: blue, green and red.
        side: of the windows.
        means: of blue, green and red.
        pivots: the diagonal after elimination.
        rest: what is left beside it: of blue with green, blue with red, and green with red.
    """

    colors: list[Floats]
    side: int
    means: tuple[Floats, Floats, Floats]
    pivots: tuple[Floats, Floats, Floats]
    rest: tuple[Floats, Floats, Floats]

    @staticmethod
    def of(colors: list[Floats], side: int) -> "_Windows":
        """For planes float32 (h, w) of blue, green and red in [0, 1]."""
        blue, green, red = colors
        b, g, r = _mean(blue, side), _mean(green, side), _mean(red, side)
        flat = np.float32(_EPSILON)
        bb, bg = flat + _mean(blue * blue, side) - b * b, _mean(blue * green, side) - b * g
        gg, gr = flat + _mean(green * green, side) - g * g, _mean(green * red, side) - g * r
        rr, br = flat + _mean(red * red, side) - r * r, _mean(blue * red, side) - b * r
        bg_b, br_b = bg / bb, br / bb
        gg, gr = gg - bg_b * bg, gr - bg_b * br
        gr_g = gr / gg
        rr = rr - br_b * br - gr_g * gr
        pivots = bb, gg, rr
        return _Windows(colors, side, (b, g, r), pivots, (bg_b, br_b, gr_g))

    def explain(self, target: Floats) -> tuple[list[Floats], Floats]:
        """Weights of the colours, and constants, that explain a target float32 (h, w) best; means of all windows."""
        blue, green, red = self.colors
        (b, g, r), (bb, gg, rr), (bg_b, br_b, gr_g) = self.means, self.pivots, self.rest
        mean = _mean(target, self.side)
        # Covariances of each colour with the target, and elimination.
        bt = _mean(blue * target, self.side) - b * mean
        gt = _mean(green * target, self.side) - g * mean - bg_b * bt
        rt = _mean(red * target, self.side) - r * mean - br_b * bt - gr_g * gt
        weight_r = rt / rr
        weight_g = gt / gg - gr_g * weight_r
        weight_b = bt / bb - bg_b * weight_g - br_b * weight_r
        constant = mean - weight_b * b - weight_g * g - weight_r * r
        weights = [_mean(each, self.side) for each in (weight_b, weight_g, weight_r)]
        return weights, _mean(constant, self.side)


def _mean(plane: Floats, side: int) -> Floats:
    """Of a plane float32 (h, w), in the square window around each pixel."""
    return cv2.blur(plane, (side, side), borderType=cv2.BORDER_REFLECT)
