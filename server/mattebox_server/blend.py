"""Photo and alpha to composite. All arrays are uint8, colours BGR, alpha straight: 0 background, 255 subject."""

import cv2
import numpy as np

from mattebox_server.pixels import Pixels, as_pixels, resize

_ROWS_AT_ONCE = 256  # bounds the float weights: 2 x 4 bytes a pixel of this many rows instead of the whole photo


def over_color(bgr: Pixels, alpha: Pixels, color: tuple[int, int, int]) -> Pixels:
    """Foreground (H, W, 3) over one colour with alpha (H, W): foreground * a + colour * (1 - a), a = alpha / 255."""
    background = np.empty((min(_ROWS_AT_ONCE, len(bgr)), *bgr.shape[1:]), np.uint8)
    background[:] = color
    result = np.empty_like(bgr)
    for rows in _row_blocks(len(bgr)):
        _blend_into(result[rows], bgr[rows], background[: rows.stop - rows.start], alpha[rows])
    return result


def over_image(bgr: Pixels, alpha: Pixels, background: Pixels) -> Pixels:
    """Foreground (H, W, 3) over a background (H, W, 3) with alpha (H, W)."""
    result = np.empty_like(bgr)
    for rows in _row_blocks(len(bgr)):
        _blend_into(result[rows], bgr[rows], background[rows], alpha[rows])
    return result


def cutout(bgr: Pixels, alpha: Pixels) -> Pixels:
    """BGRA (H, W, 4) with zero colour where alpha is 0, so that nothing of the old background hides in the file."""
    result = as_pixels(cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA))
    result[..., 3] = alpha
    result[alpha == 0] = 0
    return result


def cover(background: Pixels, width_px: int, height_px: int) -> Pixels:
    """Scales a picture (h, w, 3) until it covers the frame, aspect kept, and cuts the centre: (height, width, 3)."""
    old_height, old_width = background.shape[:2]
    scale = max(width_px / old_width, height_px / old_height)
    # Cut before scaling: what overhangs a thin picture may be far larger than the frame.
    cut_width = min(old_width, max(1, round(width_px / scale)))
    cut_height = min(old_height, max(1, round(height_px / scale)))
    x, y = (old_width - cut_width) // 2, (old_height - cut_height) // 2
    return resize(background[y : y + cut_height, x : x + cut_width], width_px, height_px)


def _row_blocks(height: int) -> list[slice]:
    return [slice(top, min(top + _ROWS_AT_ONCE, height)) for top in range(0, height, _ROWS_AT_ONCE)]


def _blend_into(result: Pixels, bgr: Pixels, background: Pixels, alpha: Pixels) -> None:
    weight = alpha.astype(np.float32) * np.float32(1 / 255)
    cv2.blendLinear(bgr, background, weight, 1 - weight, dst=result)
