"""Makes mattes by the classic recipe: it blurs the hard mask."""

import cv2

from mattebox_server.imaging.pixels import Pixels


def gaussian(mask: Pixels, kernel_px: int) -> Pixels:
    """Blurs a mask uint8 (h, w) of 0 and 255 into alpha uint8 (h, w).

    Sigma follows from the kernel as OpenCV's documentation of `getGaussianKernel` gives it:
    0.3 ((kernel - 1) / 2 - 1) + 0.8.
    """
    return cv2.GaussianBlur(mask, (kernel_px, kernel_px), 0)
