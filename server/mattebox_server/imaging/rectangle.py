"""The part of the photo that comes back."""

from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels

_VISIBLE = 13  # 5 % opaque; fainter pixels must not widen a crop


@dataclass(frozen=True)
class Rectangle:
    """Columns `x_px` to `x_px + width_px`, rows alike."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    def crop(self, image: Pixels) -> Pixels:
        """Its part of an image (H, W, ...), without a copy."""
        return image[self.y_px : self.y_px + self.height_px, self.x_px : self.x_px + self.width_px]

    def clip(self, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int] | None:
        """A box of the whole image as x, y, width, height within this frame; None if it lies outside."""
        left, top = max(x, self.x_px), max(y, self.y_px)
        right, bottom = min(x + width, self.x_px + self.width_px), min(y + height, self.y_px + self.height_px)
        if left >= right or top >= bottom:
            return None
        return left - self.x_px, top - self.y_px, right - left, bottom - top


def whole(image: Pixels) -> Rectangle:
    """All of an image (H, W, ...)."""
    return Rectangle(0, 0, image.shape[1], image.shape[0])


def around_subject(alpha: Pixels, margin_px: int) -> Rectangle:
    """The bounding box of a matte uint8 (H, W) and a margin, within the image; all of it if there is no subject.

    What is less than 5 % opaque doesn't count.
    """
    x, y, width, height = cv2.boundingRect((alpha >= _VISIBLE).astype(np.uint8))
    if width == 0:
        return whole(alpha)
    left, top = max(0, x - margin_px), max(0, y - margin_px)
    right, bottom = min(alpha.shape[1], x + width + margin_px), min(alpha.shape[0], y + height + margin_px)
    return Rectangle(left, top, right - left, bottom - top)
