"""Estimates the subject's own colours at its edge, where the photo shows a mixture of subject and background.

The method is blur-fusion: Forte and Pitié, "Approximate Fast Foreground Colour Estimation", 2021. Around each pixel it
takes the mean of the subject's colours, weighted by alpha, and that of the background's, and corrects them by the
difference between their mixture and the photo. Mattebox does this at three scales, as multilevel methods do (Germer et
al., "Fast Multi-Level Foreground Estimation", 2020), and at low resolution but for the last correction.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels, opacity
from mattebox_server.matting.grid import Enlarger, Grid, Strip

_LITTLE = np.float32(1e-3)  # share of a window, which keeps divisors above 0
_RADII = (0.1, 0.03, 0.01)  # radii of the windows, in short sides of the photo


def separate(means: Pixels, alpha: Pixels) -> tuple[Floats, Floats]:
    """Estimates the colours of subject and background at low resolution, each continued smoothly over the whole photo.

    The arguments are the means of the photo's cells, uint8 (rows, columns, 3) BGR, and their matte, uint8 (rows,
    columns). Returns the subject's colours and the old background's, float32 (rows, columns, 3) BGR in [0, 255].
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
    return mean_foreground, mean_background


def _weighted_mean(colors: Floats, weights: Floats, held: Floats, side: int, otherwise: Floats) -> Floats:
    """Returns the weighted mean of colours in the window around each pixel, all of them float32 (h, w, 3).

    `held` is the mean of the weights in each window, and `otherwise` the result where it is close to 0.
    """
    mean = _window_mean(colors * weights, side)
    mean += _LITTLE * otherwise
    mean /= held + _LITTLE
    return mean


def _window_mean(image: Floats, side: int) -> Floats:
    return cv2.blur(image, (side, side))


@dataclass(frozen=True)
class Restorer:
    """Removes the old background from the photo's mixed colours, strip by strip."""

    alpha: Pixels  # the photo's matte, uint8 (H, W)
    foreground: Enlarger  # the subject's colours, over the photo
    apart: Enlarger  # the old background's colours minus the subject's, over the photo

    @staticmethod
    def of(alpha: Pixels, foreground: Floats, background: Floats, grid: Grid) -> "Restorer":
        """Makes the restorer for a matte uint8 (H, W), over which the grid lies, from the colours of `separate`."""
        return Restorer(alpha, grid.enlarger(foreground), grid.enlarger(background - foreground))

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
