"""Makes mattes whose edges follow the photo: the colour guided filter, at low resolution, with enlarged coefficients.

The method is that of He, Sun and Tang, "Guided Image Filtering", 2010 (equations 14 and 15, for a guide in colour), and
of He and Sun, "Fast Guided Filter", 2015, which filters a small image and applies the coefficients to the large one. In
each window the filter explains alpha as a linear function of colour, and each pixel takes the mean of the coefficients
of all windows that hold it. docs/decisions/007-guided-matte.md has what Mattebox adds (windows as wide as the network
is unsure, a sharpened probability, a second run, and a share of the network's own map where the photo doesn't explain
it), and the measurements that chose the parameters.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.matting.answers import SURE, Answer, radii, settled
from mattebox_server.matting.grid import Grid
from mattebox_server.matting.windows import Windows

CELLS = (200, 800)
"""The largest number of cells along the photo's short and long side."""

_EPSILON = 1e-4  # variance of colours in [0, 1] that counts as flat
_GAIN = 1.5  # contrast around 0.5 that the second run's input gets; with more, lines thinner than a cell are lost
_LEVELS = (0.1, 0.9)  # levels that become 0 and 1, because the mean of windows hardly reaches 0 or 1
_REACH_CELLS = 1  # cells beside an edge in which the photo still decides
_FULL_SHARE = 0.4  # share of a window that is unsure, from which on only colours limit the photo's share
_EVEN = 1e-3  # variance of a target in [0, 1] that counts as even, so that there is nothing to explain


@dataclass(frozen=True)
class LinearMatte:
    """Alpha as a linear function of the photo's colours, with coefficients for every cell.

    Alpha is the weighted sum of blue, green and red in [0, 255] plus a rest, rounded and clipped to [0, 255].
    """

    alpha: Pixels  # the matte at the guide's resolution, uint8 (h, w)
    weights: Floats  # of blue, green and red, float32 (h, w, 3)
    rest: Floats  # float32, like the cells of `grid.divided(parts)`, because the network's map can be finer than cells
    parts: int
    edge: NDArray[np.bool_]  # (h, w); where it is False the weights are 0, and the rest is 0 or 255

    def render(self, photo: Pixels, grid: Grid) -> Pixels:
        """Returns the matte uint8 (H, W) of the photo uint8 (H, W, 3) BGR, over which the grid lies."""
        alpha = grid.nearest(self.alpha)
        weights, rest = grid.enlarger(self.weights), grid.divided(self.parts).enlarger(self.rest)
        for strip in grid.strips_near(self.edge):
            colored = weights.at(strip)
            colored *= strip.pack(photo)
            blue, green, red = cv2.split(colored)
            blue += green
            blue += red
            strip.unpack(cv2.add(blue, rest.at(strip), dtype=cv2.CV_8U), alpha)  # rounds and clips
        return alpha


def guided(photo: Pixels, answer: Answer) -> LinearMatte:
    """Makes a matte with the edges of a photo at low resolution, uint8 (h, w, 3) BGR.

    Photo and map each have a share in it, which varies from place to place.
    """
    guide = Guide(photo)
    weights, constants, share = _shared(guide, answer)
    alone = 1 - share
    alpha = guide.apply(weights, constants) + alone * unit(settled(answer.probability, answer.need))
    made = _flat_away_from_edges(_sure(_levels(alpha * 255), answer.probability), weights, constants)
    return _with_map(made, alone, answer)


def _shared(guide: "Guide", answer: Answer) -> tuple[list[Floats], Floats, Floats]:
    """Returns the weights of colours and the constants, both multiplied by the photo's share, and that share.

    All are float32 (h, w).
    """
    if answer.need == 0:
        nothing = np.zeros(answer.probability.shape, np.float32)
        return [nothing] * 3, nothing, nothing
    first, second = radii(answer.probability)
    fit = guide.fit(guide.filtered(unit(answer.sharp()), first), second)
    weights, constants = _stretched(*fit.spread())
    share = fit.windows.enlarge(_photo_share(fit, answer.probability)) * np.float32(answer.need)
    return [weight * share for weight in weights], constants * share, share


def _photo_share(fit: "Fit", probability: Pixels) -> Floats:
    """Returns how much the photo counts beside the map in each window, float32 (rows, columns) in [0, 1].

    The map of a network that is sure up to a narrow edge is better than colours are, and so is one that colours don't
    explain.
    """
    likely = unit(probability)
    unsure = fit.windows.means(4 * likely * (1 - likely))
    return np.clip(unsure / np.float32(_FULL_SHARE) * fit.explained_share(), 0, 1)


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
        contrast = self.apply(*self.fit(rough, radius).spread())
        contrast *= _GAIN
        contrast -= (_GAIN - 1) / 2
        return np.clip(contrast, 0, 1, out=contrast)

    def fit(self, target: Floats, radius: float) -> "Fit":
        """Fits colours to a target float32 (h, w) in windows, whose radius is in short sides of the guide."""
        windows = Windows.over(target.shape[1], target.shape[0], radius)
        if windows not in self._statistics:
            self._statistics[windows] = _Statistics.of(self._colors, windows)
        return self._statistics[windows].fit(target)

    def apply(self, weights: list[Floats], constants: Floats) -> Floats:
        """Returns the weighted sum of the guide's colours plus the constants, float32 (h, w)."""
        blue, green, red = (color * weight for color, weight in zip(self._colors, weights, strict=True))
        return blue + green + red + constants


def refine(guide: Guide, probability: Pixels, rough: Floats, radii: tuple[float, float]) -> LinearMatte:
    """Filters a rough matte float32 (h, w) in [0, 1] twice; `probability` decides alone where the network is sure.

    The second run filters the result of the first, so that it reaches an edge that the network missed by more than a
    window. The radii of both runs are in short sides of the guide.
    """
    weights, constants = _stretched(*guide.fit(guide.filtered(rough, radii[0]), radii[1]).spread())
    alpha = _sure(_levels(guide.apply(weights, constants) * 255), probability)
    return _flat_away_from_edges(alpha, weights, constants)


def _stretched(weights: list[Floats], constants: Floats) -> tuple[list[Floats], Floats]:
    low, high = _LEVELS
    return [weight / (high - low) for weight in weights], (constants - low) / (high - low)


def _sure(alpha: Pixels, probability: Pixels) -> Pixels:
    """Lets the network decide where it is sure, in place."""
    np.putmask(alpha, probability <= round(255 * SURE[0]), 0)
    np.putmask(alpha, probability >= round(255 * SURE[1]), 255)
    return alpha


def _flat_away_from_edges(alpha: Pixels, weights: list[Floats], constants: Floats) -> LinearMatte:
    window = np.ones((2 * _REACH_CELLS + 1,) * 2, np.uint8)
    edge = (cv2.dilate(alpha, window) != cv2.erode(alpha, window)) | (cv2.inRange(alpha, 1, 254) > 0)
    planes = [cv2.copyTo(weight, edge.view(np.uint8)) for weight in weights]  # the other weights become 0
    rest = cv2.copyTo(constants * 255, edge.view(np.uint8), alpha.astype(np.float32))
    return LinearMatte(alpha, cv2.merge(planes), rest, 1, edge)


def _with_map(matte: LinearMatte, alone: Floats, answer: Answer) -> LinearMatte:
    """Adds the network's map to the rest, weighted by `alone`, float32 (h, w)."""
    edge, settled = matte.edge.view(np.uint8), answer.settled()
    alone, rest = (_divided(each, answer.parts, settled.shape) for each in (cv2.copyTo(alone, edge), matte.rest))
    alone *= settled
    return replace(matte, rest=alone + rest, parts=answer.parts)


def _divided(plane: Floats, parts: int, shape: tuple[int, ...]) -> Floats:
    """Interpolates a plane float32 (h, w) at so many places along each side of a pixel, and cuts it to a shape."""
    rows, columns = plane.shape
    fine = cv2.resize(plane, (columns * parts, rows * parts), interpolation=cv2.INTER_LINEAR)
    return fine[: shape[0], : shape[1]]


@dataclass(frozen=True)
class Fit:
    """The linear functions of colours that explain a target best, one for each window, as float32 (rows, columns)."""

    windows: Windows
    target: Floats  # float32 (h, w)
    coefficients: tuple[Floats, Floats, Floats, Floats]  # the weights of blue, green and red, and the constants
    explained: Floats  # the variance of the target that the colours explain

    def spread(self) -> tuple[list[Floats], Floats]:
        """Returns the weights and the constants of every pixel, the means of its windows' ones: all float32 (h, w)."""
        *weights, constants = (self.windows.enlarge(self.windows.smooth(each)) for each in self.coefficients)
        return weights, constants

    def explained_share(self) -> Floats:
        """Returns the share of the target's variance that colours explain, around each window; 0 if it has none."""
        mean = self.windows.means(self.target)
        variance = self.windows.means(self.target * self.target) - mean * mean
        return self.windows.smooth(self.explained) / (self.windows.smooth(variance) + np.float32(_EVEN))


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

    def fit(self, target: Floats) -> Fit:
        """Returns the functions of colours that explain a target float32 (h, w) best."""
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
        explained = bt * bt / bb + gt * gt / gg + rt * rt / rr
        return Fit(self.windows, target, (weight_b, weight_g, weight_r, constant), explained)
