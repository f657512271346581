"""Means of an image in square windows."""

from dataclasses import dataclass
from math import ceil

import cv2

from mattebox_server.imaging.pixels import Floats

_WIDE_PX = 3  # windows of this radius and more stand for 2x2 pixels


@dataclass(frozen=True)
class Windows:
    """Equal windows over an image: one for each pixel, or if they are wide one for each block of 2x2 pixels.

    He and Sun's fast filter also computes coefficients for a part of the windows only. But here all pixels count in the
    mean of a window, so that thin lines keep their weight.
    """

    width_px: int  # of the image
    height_px: int
    columns: int  # number of windows beside each other
    rows: int
    side: int  # of a window; in pixels, or in blocks

    @staticmethod
    def over(width_px: int, height_px: int, radius: float) -> "Windows":
        """Returns windows whose radius is in short sides of the image, and at least one pixel."""
        radius_px = radius * min(width_px, height_px)
        if radius_px < _WIDE_PX:
            return Windows(width_px, height_px, width_px, height_px, 2 * max(1, round(radius_px)) + 1)
        return Windows(width_px, height_px, ceil(width_px / 2), ceil(height_px / 2), round(radius_px + 0.5))

    def means(self, image: Floats) -> Floats:
        """Returns the mean of an image float32 (height_px, width_px, ...) in each window: float32 (rows, columns, ...).

        Beyond its border the image is mirrored.
        """
        return self._blur(self.shrink(image), self.side // 2)

    def smooth(self, values: Floats) -> Floats:
        """Returns the mean of the values of all windows that hold the centre of each, float32 (rows, columns, ...)."""
        return self._blur(values, (self.side - 1) // 2)  # windows of an even side lie half a step aside

    def shrink(self, image: Floats) -> Floats:
        """Returns the mean of the pixels that each window stands for, float32 (rows, columns, ...)."""
        return _resize(image, self.columns, self.rows)

    def enlarge(self, values: Floats) -> Floats:
        """Interpolates values float32 (rows, columns, ...) at each pixel: float32 (height_px, width_px, ...)."""
        return _resize(values, self.width_px, self.height_px)

    def _blur(self, image: Floats, anchor: int) -> Floats:
        return cv2.blur(image, (self.side, self.side), anchor=(anchor, anchor), borderType=cv2.BORDER_REFLECT)


def _resize(image: Floats, width_px: int, height_px: int) -> Floats:
    if image.shape[:2] == (height_px, width_px):
        return image
    return cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
