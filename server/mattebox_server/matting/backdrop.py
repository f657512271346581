"""Makes the backgrounds that are put behind the subject."""

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels, opacity, resize, shrink_fast
from mattebox_server.matting.blend import fill_clear

_SIGMA_PX = 3.0  # the photo is shrunk until its blur has this sigma; with a smaller one the enlarged pixels would show
_SMALLEST_PX = 64  # of the shrunk photo's short side; in a smaller one subject and background would share pixels
_REACH = 0.02  # how far the subject's colours may reach beyond the matte, in short sides of the photo
_RADII = (1.0, 0.4, 0.15, 0.05, 0.02)  # of the windows from which colours are continued, in long sides of the photo
_TRUST = 10.0  # a window of which a tenth is known counts fully
_LITTLE = np.float32(1e-5)
_CONTINUED_PX = 256  # the long side of the image in which colours are continued


def plain(width_px: int, bgr: tuple[int, int, int]) -> Pixels:
    """Returns a background of one colour: uint8 (1, width, 3) BGR, one row that stands for all."""
    return np.tile(np.array(bgr, np.uint8), (1, width_px, 1))


def cover(picture: Pixels, width_px: int, height_px: int) -> Pixels:
    """Scales a picture uint8 (h, w, 3) until it covers a frame, and cuts out the centre: uint8 (height, width, 3)."""
    old_height, old_width = picture.shape[:2]
    scale = max(width_px / old_width, height_px / old_height)
    # The picture is cut before it is scaled, because a thin picture that covers the frame can be far larger than it.
    cut_width = min(old_width, max(1, round(width_px / scale)))
    cut_height = min(old_height, max(1, round(height_px / scale)))
    x, y = (old_width - cut_width) // 2, (old_height - cut_height) // 2
    return shrink_fast(picture[y : y + cut_height, x : x + cut_width], width_px, height_px)


def blurred(photo: Pixels, alpha: Pixels, sigma_px: float) -> Pixels:
    """Blurs a photo uint8 (H, W, 3) BGR without its subject, whose matte is uint8 (H, W), by a Gaussian.

    The subject is first replaced by the colours around it, because the blur would smear it into a glow.
    """
    height, width = alpha.shape
    factor = max(1, min(int(sigma_px / _SIGMA_PX), min(height, width) // _SMALLEST_PX))
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    side = 2 * max(1, round(_REACH * min(size))) + 1
    matte = shrink_fast(alpha, *size)
    kept = cv2.inRange(cv2.dilate(matte, np.ones((side, side), np.uint8)), 0, 0)
    if not kept.any():  # with so little background, colours that mix with the subject are better than none
        kept = cv2.inRange(matte, 0, 127)
    empty = shrink_fast(photo, *size)
    empty = _continued(empty.copy() if empty is photo else empty, kept)
    soft = cv2.GaussianBlur(empty, (0, 0), sigma_px * size[0] / width)
    return resize(soft, width, height)


def continue_subject(photo: Pixels, alpha: Pixels) -> None:
    """Replaces the colours of a photo uint8 (H, W, 3) by the subject's, in place, where alpha uint8 (H, W) is 0.

    This is for files without transparency, whose compression mixes these colours into the subject's edge.
    """
    _continued(photo, cv2.inRange(alpha, 1, 255))


def _continued(photo: Pixels, kept: Pixels) -> Pixels:
    """Fills a photo uint8 (H, W, 3) with its own colours, in place, where `kept` uint8 (H, W) is 0, and returns it.

    The windows become smaller from step to step, and each step replaces the colours as far as its windows hold kept
    pixels. If no pixel is kept, the photo becomes black.
    """
    height, width = kept.shape
    fill_clear(photo, kept, plain(width, (0, 0, 0)))
    scale = min(1, _CONTINUED_PX / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    weights, colors = opacity(shrink_fast(kept, *size)), shrink_fast(photo, *size).astype(np.float32)
    continued = np.zeros_like(colors) + colors.sum(axis=(0, 1)) / (weights.sum(axis=(0, 1)) + _LITTLE)
    for radius in _RADII:
        side = 2 * max(1, round(radius * max(size))) + 1
        share = cv2.blur(weights, (side, side))
        mean = cv2.blur(colors, (side, side)) / (share + _LITTLE)
        continued += np.minimum(1, share * _TRUST) * (mean - continued)
    filling = continued.clip(0, 255).round().astype(np.uint8)
    fill_clear(photo, kept, cv2.resize(filling, (width, height), interpolation=cv2.INTER_LINEAR))
    return photo
