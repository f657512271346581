"""The hard mask: subject or not, for every pixel."""

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels


def hard_mask(foreground: Pixels, classes: Pixels | None, kept: frozenset[int]) -> Pixels:
    """255 where the subject is, else 0; uint8 (h, w).

    Args:
        foreground: uint8 (h, w), round(255 x probability of the subject). Decides where there are no classes: the
            likelier of the two wins.
        classes: uint8 (h, w), index of the likeliest class, or None from a saliency network.
        kept: indices of the classes that are the subject.
    """
    if classes is None:
        return cv2.threshold(foreground, 127, 255, cv2.THRESH_BINARY)[1]
    table = np.zeros(256, np.uint8)
    table[sorted(kept)] = 255
    return cv2.LUT(classes, table)
