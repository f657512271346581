"""Errors of mattes and masks, as the literature defines them.

Alpha mattes: Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", 2009. Masks: intersection
over union, of the whole photo and of a band around the true edge, after Kohli et al., "Robust Higher Order Potentials",
2009 (the trimap experiment).
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Pixels

Doubles = NDArray[np.float64]
Where = NDArray[np.bool_]

_GRADIENT_SIGMA_PX = 1.4
_CONNECTED_STEP = 0.1
_DISCONNECTED_FROM = 0.15


@dataclass(frozen=True)
class AlphaErrors:
    """Errors of one matte, over some of its pixels.

    Args:
        sad: sum of absolute differences, in thousands.
        mad: mean absolute difference, in thousandths.
        mse: mean squared difference, in thousandths.
        grad: sum of squared differences of the gradients, in thousands.
        conn: connectivity error, in thousands.
    """

    sad: float
    mad: float
    mse: float
    grad: float
    conn: float


def alpha_errors(matte: Pixels, truth: Pixels, where: Where) -> AlphaErrors:
    """Returns the errors of a matte against the true alpha, both uint8 (H, W), in the pixels of `where` (H, W)."""
    alpha, true_alpha = matte / 255.0, truth / 255.0
    difference = np.abs(alpha - true_alpha)[where]
    gradients = (_gradient(alpha) - _gradient(true_alpha))[where]
    return AlphaErrors(
        sad=float(difference.sum()) / 1000,
        mad=float(difference.mean()) * 1000,
        mse=float((difference**2).mean()) * 1000,
        grad=float((gradients**2).sum()) / 1000,
        conn=_connectivity_error(alpha, true_alpha, where) / 1000,
    )


def _gradient(alpha: Doubles) -> Doubles:
    """Returns the length of the gradient, by first derivatives of a Gaussian, scaled to unit norm."""
    half = int(np.ceil(_GRADIENT_SIGMA_PX * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * _GRADIENT_SIGMA_PX * 0.01))))
    x = np.arange(-half, half + 1)
    bell = np.exp(-(x**2) / (2 * _GRADIENT_SIGMA_PX**2)) / (_GRADIENT_SIGMA_PX * np.sqrt(2 * np.pi))
    kernel = np.outer(bell, -x * bell / _GRADIENT_SIGMA_PX**2)
    kernel /= np.sqrt((kernel**2).sum())
    across = cv2.filter2D(alpha, cv2.CV_64F, kernel, borderType=cv2.BORDER_REPLICATE)
    down = cv2.filter2D(alpha, cv2.CV_64F, kernel.T, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(across, down)


def _connectivity_error(alpha: Doubles, truth: Doubles, where: Where) -> float:
    """Returns the connectivity error: how far alpha is from the level that joins it to the largest solid region."""
    level = np.full(alpha.shape, -1.0)
    steps = np.arange(0, 1 + _CONNECTED_STEP / 2, _CONNECTED_STEP)
    for below, step in pairwise(steps):
        solid = ((alpha >= step) & (truth >= step)).astype(np.uint8)
        count, labels, sizes, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
        largest = labels == 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else np.zeros(alpha.shape, bool)
        level[(level < 0) & ~largest] = below
    level[level < 0] = 1
    apart = [1 - distance * (distance >= _DISCONNECTED_FROM) for distance in (alpha - level, truth - level)]
    return float(np.abs(apart[0] - apart[1])[where].sum())


@dataclass(frozen=True)
class MaskScores:
    """Scores of one mask in [0, 1].

    Args:
        iou: intersection over union in the whole photo.
        band_iou: intersection over union in the band around the true edge.
        band_accuracy: share of the band's pixels that are right.
    """

    iou: float
    band_iou: float
    band_accuracy: float


def mask_scores(matte: Pixels, truth: Where, known: Where, band_px: int = 8) -> MaskScores:
    """Returns the scores of a matte uint8 (H, W), cut at 127, against the true mask, where `known` is True."""
    mask, inside = matte > 127, truth.astype(np.uint8)
    to_edge = cv2.distanceTransform(inside, cv2.DIST_L2, 5) + cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    band = known & (to_edge <= band_px)
    return MaskScores(_iou(mask, truth, known), _iou(mask, truth, band), float((mask == truth)[band].mean()))


def _iou(mask: Where, truth: Where, where: Where) -> float:
    either = int(((mask | truth) & where).sum())
    return float((mask & truth & where).sum()) / either if either else 1.0


def coarse_map(alpha: Pixels, short_side_px: int = 450, stride_px: int = 8) -> Pixels:
    """Returns the probability map, uint8 (h, w), of a segmentation network of this stride that makes no mistake.

    The true subject (alpha over a half) is averaged over each cell of the network's last map, taken as logits, and
    enlarged.
    """
    height, width = alpha.shape
    scale = short_side_px / min(height, width)
    size = (round(width * scale), round(height * scale))
    solid = (alpha > 127).astype(np.float32)
    cells = cv2.resize(solid, (size[0] // stride_px, size[1] // stride_px), interpolation=cv2.INTER_AREA)
    logits = cv2.resize(12 * (cells - 0.5), size, interpolation=cv2.INTER_LINEAR)
    probability: Floats = 255 / (1 + np.exp(-logits))
    return np.round(probability).astype(np.uint8)
