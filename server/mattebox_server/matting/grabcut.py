"""Makes mattes in which colour decides where the network is unsure: by GrabCut, and then the guided filter.

The method is that of Rother, Kolmogorov and Blake, "GrabCut: Interactive Foreground Extraction using Iterated Graph
Cuts", 2004, in OpenCV's implementation. docs/decisions/008-grabcut-matte.md has the measurements that chose the
parameters.
"""

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.matting.answers import Answer, radii
from mattebox_server.matting.guided import Guide, LinearMatte, refine, unit

CELLS = (400, 800)
"""The largest number of cells along the photo's short and long side."""

_SURE = (0.1, 0.9)  # probabilities beyond which the network's answer is kept
_BAND = 0.01  # width beside the network's edge in which its answer is never kept, in short sides of the photo
_ITERATIONS = 1  # more iterations measured the same
_SMOOTHING = (7, 20.0, 5.0)  # diameter in cells, sigma of colours in grey levels, sigma of places in cells
_SHARE_OF_NETWORK = 0.3
_NO_BOX = (0, 0, 1, 1)  # OpenCV ignores the rectangle if there are labels
_SEED = 0  # OpenCV starts its colour models at random, so that a fixed seed is needed for repeatable mattes


def grabcut(photo: Pixels, answer: Answer) -> LinearMatte:
    """Makes a matte with a photo's edges. It is slower than `guided`, and better where the network is wrong.

    Arguments and result have the form of `guided`'s. GrabCut keeps the network's answer away from the edge, where the
    network is sure, and cuts the rest anew. The cut is hard and sometimes wrong, so that it is mixed with the network's
    answer after a run of the guided filter, and filtered again. Equal arguments always give equal mattes.
    """
    probability = answer.probability
    guide, rough, sizes = Guide(photo), unit(answer.sharp()), radii(probability)
    cut = _cut(photo, probability)
    if cut is not None:
        network = guide.filtered(rough, sizes[0])
        rough = _SHARE_OF_NETWORK * network + (1 - _SHARE_OF_NETWORK) * cut
    return refine(guide, probability, rough, sizes)


def _cut(photo: Pixels, probability: Pixels) -> Floats | None:
    """Returns the cut, float32 (h, w): 1 subject, 0 background; None if either is missing, or nothing is uncertain."""
    low, high = (round(255 * bound) for bound in _SURE)
    likely = (probability > 127).astype(np.uint8)
    side = 2 * max(1, round(_BAND * min(likely.shape))) + 1
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    # The border of the photo isn't an edge: beyond it erode takes the pixels for subject, and dilate for background.
    sure_subject = (cv2.erode(likely, window) > 0) & (probability > high)
    sure_background = (cv2.dilate(likely, window) == 0) & (probability < low)
    labels = np.where(likely > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[sure_subject], labels[sure_background] = cv2.GC_FGD, cv2.GC_BGD
    if not likely.any() or likely.all() or (sure_subject | sure_background).all():
        return None
    cv2.setRNGSeed(_SEED)  # the seed belongs to the thread
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(_smoothed(photo), labels, _NO_BOX, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return (labels & 1).astype(np.float32)


def _smoothed(photo: Pixels) -> Pixels:
    """Returns a photo uint8 (h, w, 3) BGR in Lab, without its noise, which would be part of the models of colours."""
    return cv2.cvtColor(cv2.bilateralFilter(photo, *_SMOOTHING), cv2.COLOR_BGR2LAB)
