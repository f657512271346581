"""The array type that all pixel modules share, and the one way in which Mattebox resizes."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""uint8 (H, W) grey or alpha, (H, W, 3) BGR, (H, W, 4) BGRA."""


def as_pixels(array: Any) -> Pixels:
    """Tells the type checkers what OpenCV's stubs leave open; costs nothing at run time."""
    pixels: Pixels = array
    return pixels


def resize(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    """Resizes; returns `pixels` itself if the size is right already.

    Shrinking averages over areas, so that fine texture doesn't alias; enlarging is bilinear.
    """
    height, width = pixels.shape[:2]
    if (width, height) == (width_px, height_px):
        return pixels
    shrinks = width_px <= width and height_px <= height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return as_pixels(cv2.resize(pixels, (width_px, height_px), interpolation=interpolation))
