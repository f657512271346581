"""Photo, matte and background to composite. Colours are uint8 BGR, alpha is straight: 0 background, 255 subject."""

from collections.abc import Iterator

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Floats, Pixels, opacity
from mattebox_server.matting.foreground import Restorer
from mattebox_server.matting.grid import Grid, Strip

_ROWS_AT_ONCE = 64


def composite(photo: Pixels, alpha: Pixels, background: Pixels, restorer: Restorer | None = None) -> None:
    """Puts the background behind the subject, in place: photo * a + background * (1 - a), a = alpha / 255, rounded.

    Args:
        photo: (H, W, 3).
        alpha: (H, W).
        background: (H, W, 3), or (1, W, 3) for one that is the same in all rows.
        restorer: takes the old background out of the photo's mixed colours first; None: they stay as they are.
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
    """BGRA (H, W, 4) with zero colour where alpha is 0: nothing of the old background hides in it.

    Args:
        photo: (H, W, 3); changes.
        alpha: (H, W).
        restorer: as for `composite`.
    """
    if restorer is not None:
        restore(photo, alpha, restorer)
    fill_clear(photo, alpha, np.zeros((1, photo.shape[1], 3), np.uint8))
    result = cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA)
    cv2.insertChannel(alpha, result, 3)
    return result


def restore(photo: Pixels, alpha: Pixels, restorer: Restorer) -> None:
    """Takes the old background out of the mixed colours of a photo (H, W, 3) with its matte (H, W), in place.

    Where alpha is 0 the photo may change too.
    """
    for strip in _strips(alpha, restorer):
        strip.unpack(_rounded(_colors(photo, strip, restorer)), photo)


def _strips(alpha: Pixels, restorer: Restorer | None) -> Iterator[Strip]:
    """Of the restorer's grid, whose cells begin where its strips do."""
    grid = Grid.over(alpha.shape[1], alpha.shape[0]) if restorer is None else restorer.foreground.grid
    return grid.mixed_strips(alpha)


def _colors(photo: Pixels, strip: Strip, restorer: Restorer | None) -> Floats:
    colors = strip.pack(photo).astype(np.float32)
    return colors if restorer is None else restorer.restore(colors, strip)


def _rounded(colors: Floats) -> Pixels:
    colors += np.float32(0.5)
    return colors.astype(np.uint8)


def fill_clear(photo: Pixels, alpha: Pixels, background: Pixels) -> None:
    """Writes the background wherever alpha is 0."""
    same = np.repeat(background, _ROWS_AT_ONCE, axis=0) if len(background) == 1 else None
    for top in range(0, len(alpha), _ROWS_AT_ONCE):
        rows = slice(top, min(top + _ROWS_AT_ONCE, len(alpha)))
        clear = cv2.inRange(alpha[rows], 0, 0)
        behind = background[rows] if same is None else same[: rows.stop - top]
        cv2.copyTo(behind, clear, photo[rows])
