"""The subject's own colours at its edge, where the photo shows a mixture of subject and background.

Blur-fusion: Forte and Pitié, "Approximate Fast Foreground Colour Estimation", 2021. Means of what is surely subject
and of what is surely background around each pixel, corrected by what they leave unexplained of the photo. Mattebox does
it at three scales, each starting from the last one's result, as multilevel methods do (Germer et al., "Fast Multi-Level
Foreground Estimation", 2020), and all but the last correction at low resolution, because the means are smooth.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels, opacity
from mattebox_server.matting.grid import Enlarger, Grid, Strip

_LITTLE = np.float32(1e-3)  # share of a window
_RADII = (0.1, 0.03, 0.01)  # of the windows, in short sides of the photo


@dataclass(frozen=True)
class Layers:
    """What the photo would show if there were nothing else: smooth, and defined everywhere.

    Args:
        foreground: float32 (rows, columns, 3) BGR in [0, 255], the subject's colours.
        background: alike, the old background's.
    """

    foreground: Floats
    background: Floats


def separate(means: Pixels, alpha: Pixels) -> Layers:
    """Both layers at low resolution.

    Args:
        means: uint8 (rows, columns, 3) BGR, the photo's cells.
        alpha: uint8 (rows, columns), their matte.
    """
    photo, share = means.astype(np.float32), opacity(alpha)
    foreground = background = mean_foreground = mean_background = photo
    for radius in _RADII:
        side = 2 * max(1, round(radius * min(alpha.shape))) + 1
        held = _window_mean(share, side)
        mean_foreground = _weighted_mean(foreground, share, held, side, mean_foreground)
        mean_background = _weighted_mean(background, 1 - share, 1 - held, side, mean_background)
        unexplained = photo - share * mean_foreground - (1 - share) * mean_background
        foreground = np.clip(mean_foreground + share * unexplained, 0, 255)
        background = np.clip(mean_background + (1 - share) * unexplained, 0, 255)
    return Layers(mean_foreground, mean_background)


def _weighted_mean(colors: Floats, weights: Floats, held: Floats, side: int, otherwise: Floats) -> Floats:
    """In the window around each pixel, which holds so much weight; `otherwise` where that is next to none."""
    mean = _window_mean(colors * weights, side)
    mean += _LITTLE * otherwise
    mean /= held + _LITTLE
    return mean


def _window_mean(image: Floats, side: int) -> Floats:
    return cv2.blur(image, (side, side))


@dataclass(frozen=True)
class Restorer:
    """Takes the old background out of the photo's mixed colours, strip by strip.

    Args:
        alpha: uint8 (H, W), the matte that the layers were separated with.
        foreground: the layers, over the photo.
        apart: what the old background has more than the foreground.
    """

    alpha: Pixels
    foreground: Enlarger
    apart: Enlarger

    @staticmethod
    def of(alpha: Pixels, layers: Layers, grid: Grid) -> "Restorer":
        """For a photo over which the grid lies, with its matte uint8 (H, W)."""
        return Restorer(alpha, grid.enlarger(layers.foreground), grid.enlarger(layers.background - layers.foreground))

    def restore(self, colors: Floats, strip: Strip) -> Floats:
        """The subject's colours of a strip of the photo, both float32 (h, w, 3) BGR in [0, 255]."""
        share, foreground = opacity(strip.pack(self.alpha)), self.foreground.at(strip)
        # foreground + share * (colors - share * foreground - (1 - share) * background), with the fewest products
        restored = self.apart.at(strip)
        restored *= share - 1
        restored += colors
        restored -= foreground
        restored *= share
        restored += foreground
        return np.clip(restored, 0, 255, out=restored)
