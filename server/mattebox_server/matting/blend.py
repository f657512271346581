"""Blends photos uint8 (H, W, 3) BGR and backgrounds by mattes uint8 (H, W), straight alpha: 255 is the subject."""

from collections.abc import Iterator

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels, opacity
from mattebox_server.matting.foreground import Restorer
from mattebox_server.matting.grid import Grid, Strip

_ROWS_AT_ONCE = 64


def composite(photo: Pixels, alpha: Pixels, background: Pixels, restorer: Restorer | None = None) -> None:
    """Puts a background uint8 (H, W, 3), or (1, W, 3) for equal rows, behind the subject of a photo, in place.

    The result is photo * a + background * (1 - a) with a = alpha / 255, rounded. The restorer removes the old
    background from mixed colours; None leaves them as they are.
    """
    for strip in _strips(alpha, restorer):
        mixed = _colors(photo, strip, restorer)
        behind = strip.pack(background) if len(background) > 1 else Strip(0, 1, strip.spans).pack(background)
        mixed -= behind
        mixed *= opacity(strip.pack(alpha))
        mixed += behind
        strip.unpack(_rounded(mixed), photo)
    fill_clear(photo, alpha, background)


def cutout(photo: Pixels, alpha: Pixels, restorer: Restorer | None = None) -> Pixels:
    """Returns the cutout, uint8 (H, W, 4) BGRA, of a photo, which changes.

    Its colour is 0 where alpha is 0, and hides no old background there. The restorer removes the old background from
    mixed colours; None leaves them as they are.
    """
    if restorer is not None:
        restore(photo, alpha, restorer)
    fill_clear(photo, alpha, np.zeros((1, photo.shape[1], 3), np.uint8))
    result = cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA)
    cv2.insertChannel(alpha, result, 3)
    return result


def restore(photo: Pixels, alpha: Pixels, restorer: Restorer) -> None:
    """Removes the old background from the mixed colours of a photo, in place. It may also change where alpha is 0."""
    for strip in _strips(alpha, restorer):
        strip.unpack(_rounded(_colors(photo, strip, restorer)), photo)


def _strips(alpha: Pixels, restorer: Restorer | None) -> Iterator[Strip]:
    """Yields strips that hold every mixed pixel. They belong to the restorer's grid, as it enlarges no others."""
    grid = Grid.over(alpha.shape[1], alpha.shape[0]) if restorer is None else restorer.foreground.grid
    return grid.mixed_strips(alpha)


def _colors(photo: Pixels, strip: Strip, restorer: Restorer | None) -> Floats:
    colors = strip.pack(photo).astype(np.float32)
    return colors if restorer is None else restorer.restore(colors, strip)


def _rounded(colors: Floats) -> Pixels:
    colors += np.float32(0.5)
    return colors.astype(np.uint8)


def fill_clear(photo: Pixels, alpha: Pixels, background: Pixels) -> None:
    """Writes a background uint8 (H, W, 3) or (1, W, 3) into a photo uint8 (H, W, 3) where alpha uint8 (H, W) is 0."""
    same = np.repeat(background, _ROWS_AT_ONCE, axis=0) if len(background) == 1 else None
    for top in range(0, len(alpha), _ROWS_AT_ONCE):
        rows = slice(top, min(top + _ROWS_AT_ONCE, len(alpha)))
        clear = cv2.inRange(alpha[rows], 0, 0)
        behind = background[rows] if same is None else same[: rows.stop - top]
        cv2.copyTo(behind, clear, photo[rows])
