"""Where the network is unsure, colour decides: GrabCut in the uncertain band, then the guided filter.

Rother, Kolmogorov and Blake, "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", 2004, in OpenCV's
implementation. What the network is sure of, away from the edge, is given; the rest is cut anew. GrabCut's answer is
hard and now and then wrong, so that it is mixed with what the guided filter makes of the network's, and filtered again.
docs/decisions/008-grabcut-matte.md has the measurements that chose the parameters.
"""

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.matting.guided import Guide, LinearMatte, radii, refine, unit

CELLS = (400, 800)
"""Cells that this wants along the photo's sides at most. Each takes time; 256 measured 0.008 less in band IoU."""

_SURE = (0.1, 0.9)  # probabilities beyond which the network is believed
_BAND = 0.01  # around the network's edge, in short sides, within which it never is
_ITERATIONS = 1  # more measured the same
_SHARE_OF_NETWORK = 0.3
_NO_BOX = (0, 0, 1, 1)  # unused where there are labels
_SEED = 0  # OpenCV starts its colour models at random


def grabcut(photo: Pixels, probability: Pixels, sharp: Pixels) -> LinearMatte:
    """A matte with the photo's edges, better than `guided` where the network is wrong, and slower.

    The same photo and probability give the same matte.

    Args:
        photo: uint8 (h, w, 3) BGR, at low resolution.
        probability: uint8 (h, w), round(255 x probability of the subject).
        sharp: uint8 (h, w), the same, sharpened at the network's own resolution.
    """
    guide, rough, sizes = Guide(photo), unit(sharp), radii(probability)
    cut = _cut(photo, probability)
    if cut is not None:
        network = guide.filtered(rough, sizes[0])
        rough = _SHARE_OF_NETWORK * network + (1 - _SHARE_OF_NETWORK) * cut
    return refine(guide, probability, rough, sizes)


def _cut(photo: Pixels, probability: Pixels) -> Floats | None:
    """1 subject, 0 background; None where one of them is missing or nothing is uncertain."""
    low, high = (round(255 * bound) for bound in _SURE)
    likely = (probability > 127).astype(np.uint8)
    side = 2 * max(1, round(_BAND * min(likely.shape))) + 1
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    # Beyond the frame the subject goes on as it is: erode takes ones there, dilate zeros.
    sure_subject = (cv2.erode(likely, window) > 0) & (probability > high)
    sure_background = (cv2.dilate(likely, window) == 0) & (probability < low)
    labels = np.where(likely > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[sure_subject], labels[sure_background] = cv2.GC_FGD, cv2.GC_BGD
    if not likely.any() or likely.all() or (sure_subject | sure_background).all():
        return None
    cv2.setRNGSeed(_SEED)  # of this thread
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(photo, labels, _NO_BOX, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return (labels & 1).astype(np.float32)
