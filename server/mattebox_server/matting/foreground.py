"""Estimates the subject's own colours at its edge, where the photo shows a mixture of subject and background.

The method is blur-fusion: Forte and Pitié, "Approximate Fast Foreground Colour Estimation", 2021. Around each pixel it
takes the mean of the subject's colours, weighted by alpha, and that of the background's, and corrects them by the
difference between their mixture and the photo. Mattebox does this at three scales, each of which starts from the result
of the one before, as multilevel methods do (Germer et al., "Fast Multi-Level Foreground Estimation", 2020). All steps
but the last correction run at low resolution, because the means are smooth.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels, opacity
from mattebox_server.matting.grid import Enlarger, Grid, Strip

_LITTLE = np.float32(1e-3)  # share of a window, which keeps divisors above 0
_RADII = (0.1, 0.03, 0.01)  # radii of the windows, in short sides of the photo


@dataclass(frozen=True)
class Layers:
    """The colours of subject and background, each continued smoothly over the whole photo.

    Args:
        foreground: the subject's colours, float32 (rows, columns, 3) BGR in [0, 255].
        background: the old background's colours, float32 (rows, columns, 3) BGR in [0, 255].
    """

    foreground: Floats
    background: Floats


def separate(means: Pixels, alpha: Pixels) -> Layers:
    """Estimates both layers at low resolution.

    Args:
        means: the means of the photo's cells, uint8 (rows, columns, 3) BGR.
        alpha: the matte of the cells, uint8 (rows, columns).
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
    """Returns the weighted mean of colours in the window around each pixel.

    Args:
        colors: float32 (h, w, 3).
        weights: float32 (h, w, 3) in [0, 1].
        held: the mean of the weights in each window, float32 (h, w, 3).
        side: the side of the windows in pixels.
        otherwise: the result where the weights are close to 0, float32 (h, w, 3).
    """
    mean = _window_mean(colors * weights, side)
    mean += _LITTLE * otherwise
    mean /= held + _LITTLE
    return mean


def _window_mean(image: Floats, side: int) -> Floats:
    return cv2.blur(image, (side, side))


@dataclass(frozen=True)
class Restorer:
    """Removes the old background from the photo's mixed colours, strip by strip.

    Args:
        alpha: the matte from which the layers were estimated, uint8 (H, W).
        foreground: the subject's colours, over the photo.
        apart: the old background's colours minus the subject's, over the photo.
    """

    alpha: Pixels
    foreground: Enlarger
    apart: Enlarger

    @staticmethod
    def of(alpha: Pixels, layers: Layers, grid: Grid) -> "Restorer":
        """Makes the restorer of a photo with the matte uint8 (H, W), over which the grid lies."""
        return Restorer(alpha, grid.enlarger(layers.foreground), grid.enlarger(layers.background - layers.foreground))

    def restore(self, colors: Floats, strip: Strip) -> Floats:
        """Returns the subject's colours for those of a strip of the photo, both float32 (h, w, 3) BGR in [0, 255]."""
        share, foreground = opacity(strip.pack(self.alpha)), self.foreground.at(strip)
        # This is foreground + share * (colors - share * foreground - (1 - share) * background), with fewer products.
        restored = self.apart.at(strip)
        restored *= share - 1
        restored += colors
        restored -= foreground
        restored *= share
        restored += foreground
        return np.clip(restored, 0, 255, out=restored)
