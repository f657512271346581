"""Makes alpha at the photo's resolution from the answer of a network."""

from typing import NamedTuple

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels, resize
from mattebox_server.matting import grabcut, guided
from mattebox_server.matting.answers import Answer
from mattebox_server.matting.foreground import Restorer, separate
from mattebox_server.matting.grid import Grid
from mattebox_server.request import MatteMethod, MatteOptions


class Matte(NamedTuple):
    """A finished matte, and the estimate that removes the old background from mixed colours."""

    alpha: Pixels  # uint8 (H, W), 0 background, 255 subject
    restorer: Restorer | None = None  # None if the photo's edge colours stay


def hard_mask(foreground: Pixels, classes: Pixels | None, kept: frozenset[int]) -> Pixels:
    """Returns a mask uint8 (h, w): 255 where the likeliest class is one of the kept, and 0 elsewhere.

    `classes` are the indices of the likeliest classes, uint8 (h, w). A saliency network has none, so that `foreground`,
    which is round(255 x probability of the subject), uint8 (h, w), decides at one half.
    """
    if classes is None:
        return cv2.threshold(foreground, 127, 255, cv2.THRESH_BINARY)[1]
    table = np.zeros(256, np.uint8)
    table[sorted(kept)] = 255
    return cv2.LUT(classes, table)


def make_matte(photo: Pixels, probability: Pixels, mask: Pixels, options: MatteOptions) -> Matte:
    """Makes the matte of a photo uint8 (H, W, 3) BGR.

    `probability` is round(255 x probability of the subject), and `mask` the `hard_mask`. Both are uint8 (h, w), and
    cover the whole photo.
    """
    height, width = photo.shape[:2]
    match options.method:
        case MatteMethod.GAUSSIAN:
            # As the classic recipe does: sigma is 0.3 ((kernel - 1) / 2 - 1) + 0.8, as in `cv2.getGaussianKernel`.
            return Matte(resize(cv2.GaussianBlur(mask, (options.blur_kernel_px,) * 2, 0), width, height))
        case MatteMethod.NONE:
            return Matte(resize(mask, width, height))
        case MatteMethod.GUIDED:
            grid, method = Grid.over(width, height, guided.CELLS), guided.guided
        case MatteMethod.GRABCUT:
            grid, method = Grid.over(width, height, grabcut.CELLS), grabcut.grabcut
    cells = grid.means(photo)
    linear = method(cells, Answer.over(grid, probability))
    layers = None if options.keep_edge_colors else separate(cells, linear.alpha)
    alpha = linear.render(photo, grid)
    return Matte(alpha, None if layers is None else Restorer.of(alpha, *layers, grid))
