"""Makes the hard mask, which says for every pixel whether it belongs to the subject."""

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels


def hard_mask(foreground: Pixels, classes: Pixels | None, kept: frozenset[int]) -> Pixels:
    """Returns a mask uint8 (h, w): 255 where the subject is, and 0 elsewhere.

    Args:
        foreground: round(255 x probability of the subject), uint8 (h, w). It decides, at one half, if there are no
            classes.
        classes: the index of the likeliest class, uint8 (h, w); None for a saliency network.
        kept: the indices of the classes that are the subject.
    """
    if classes is None:
        return cv2.threshold(foreground, 127, 255, cv2.THRESH_BINARY)[1]
    table = np.zeros(256, np.uint8)
    table[sorted(kept)] = 255
    return cv2.LUT(classes, table)
