"""Estimates the subject's own colours at its edge, where the photo shows a mixture of subject and background.

The method is blur-fusion: Forte and Pitié, "Approximate Fast Foreground Colour Estimation", 2021. Around each pixel it
takes the mean of the subject's colours, weighted by alpha, and that of the background's, and corrects them by the
difference between their mixture and the photo. Mattebox does this at three scales, as multilevel methods do (Germer et
al., "Fast Multi-Level Foreground Estimation", 2020), and at low resolution but for the last correction.
"""

from dataclasses import dataclass

import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels, opacity
from mattebox_server.matting.grid import Enlarger, Grid, Strip
from mattebox_server.matting.windows import Windows

_LITTLE = np.float32(1e-3)  # share of a window, which keeps divisors above 0
_RADII = (0.1, 0.03, 0.01)  # radii of the windows, in short sides of the photo

Layers = tuple[Floats, Floats]
"""The colours of the subject and those of the background, each float32 (h, w, 3) BGR in [0, 255]."""


def separate(means: Pixels, alpha: Pixels) -> Layers:
    """Estimates the colours of subject and background at low resolution, each continued smoothly over the whole photo.

    The arguments are the means of the photo's cells, uint8 (rows, columns, 3) BGR, and their matte, uint8 (rows,
    columns), and the result has the same size.
    """
    mixture = _Mixture(means.astype(np.float32), opacity(alpha))
    layers = mixture.photo, mixture.photo
    smooth = mixture.smoothed(layers, layers, _RADII[0])
    for radius in _RADII[1:]:
        smooth = mixture.smoothed(mixture.corrected(smooth), smooth, radius)
    return smooth


@dataclass(frozen=True)
class _Mixture:
    """A photo of a subject before a background."""

    photo: Floats  # float32 (h, w, 3) BGR in [0, 255]
    share: Floats  # of the subject, float32 (h, w, 3) in [0, 1]

    def corrected(self, layers: Layers) -> Layers:
        """Adds to both layers what their mixture lacks to be the photo, by their shares."""
        foreground, background = layers
        lacking = foreground - background
        lacking *= -self.share
        lacking -= background
        lacking += self.photo
        subject = self.share * lacking
        lacking -= subject
        subject += foreground
        lacking += background
        return np.clip(subject, 0, 255, out=subject), np.clip(lacking, 0, 255, out=lacking)

    def smoothed(self, layers: Layers, otherwise: Layers, radius: float) -> Layers:
        """Returns the means of both layers, weighted by their shares, in windows whose radius is in short sides.

        Where a window holds next to nothing of a layer, the result is that of `otherwise`.
        """
        windows = Windows.over(self.share.shape[1], self.share.shape[0], radius)
        held = windows.means(self.share)
        foreground = windows.means(layers[0] * self.share) + _LITTLE * windows.shrink(otherwise[0])
        background = windows.means(layers[1] * (1 - self.share)) + _LITTLE * windows.shrink(otherwise[1])
        foreground /= held + _LITTLE
        background /= (1 + _LITTLE) - held
        return windows.enlarge(foreground), windows.enlarge(background)


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
        """Changes the colours of a strip of the photo to the subject's, float32 (h, w, 3) BGR in [0, 255]."""
        share, rest = opacity(strip.pack(self.alpha)), self.apart.at(strip)
        # The result is foreground + share * (colors - share * foreground - (1 - share) * background), which equals
        # share * colors + (1 - share) * rest with rest = foreground - share * apart.
        rest *= share
        np.subtract(self.foreground.at(strip), rest, out=rest)
        colors -= rest
        colors *= share
        colors += rest
        return np.clip(colors, 0, 255, out=colors)
