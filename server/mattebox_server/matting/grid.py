"""A photo's cells, for what is worked out small, and strips of it, for what has to be done at full resolution.

Only where something happens is full resolution worth its time. A strip is some rows high and holds only the columns in
which something happens, side by side: few calls of numpy and OpenCV for many pixels, in planes that fit into a cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Image, Pixels, halve, resize

_CELLS = (256, 1024)
_LARGE_CELLS_PX = 8  # beyond which sides are multiples of four: their means take half the time
_STRIP_PX = 64
_MAX_STRIP_PX = 524_288  # pixels of a strip, from its first column to its last: bounds the float planes
_GAP_PX = 16  # two spans with fewer columns in between are one


@dataclass(frozen=True)
class Strip:
    """Some columns of some rows.

    Args:
        top_px: its first row.
        height_px: its number of rows.
        spans: first column of each span, and the one after its last; in order, none empty.
    """

    top_px: int
    height_px: int
    spans: list[tuple[int, int]]

    def pack(self, image: Image) -> Image:
        """The strip's part of an image (H, W, ...), its spans side by side."""
        rows = image[self.top_px : self.top_px + self.height_px]
        packed: Image = np.concatenate([rows[:, left:right] for left, right in self.spans], axis=1)  # pyright: ignore
        return packed

    def unpack(self, values: Image, image: Image) -> None:
        """Writes what `pack` gave, changed meanwhile, back to its place."""
        rows, done = image[self.top_px : self.top_px + self.height_px], 0
        for left, right in self.spans:
            rows[:, left:right] = values[:, done : done + right - left]
            done += right - left


def _strips(top_px: int, height_px: int, marked: NDArray[np.uint8]) -> Iterator[Strip]:
    """Strips of these rows with every column where (W,) isn't 0."""
    widest = _MAX_STRIP_PX // height_px
    spans: list[tuple[int, int]] = []
    for span in _spans(marked):
        for left in range(span[0], span[1], widest):
            right = min(left + widest, span[1])
            if spans and right - spans[0][0] > widest:
                yield Strip(top_px, height_px, spans)
                spans = []
            spans.append((left, right))
    if spans:
        yield Strip(top_px, height_px, spans)


def _spans(marked: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Runs of what isn't 0 in (W,), those with a narrow gap joined."""
    columns = np.flatnonzero(marked)
    if not len(columns):
        return []
    gaps = np.flatnonzero(columns[1:] - columns[:-1] > _GAP_PX)
    firsts, lasts = [columns[0], *columns[gaps + 1]], [*columns[gaps], columns[-1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True)
class Grid:
    """Cells over a photo; the last ones of rows and columns may reach beyond it.

    Args:
        width_px: of the photo.
        height_px: of the photo.
        cell_width_px: of a cell, the same as its height unless the photo is thinner than that.
        cell_height_px: of a cell.
    """

    width_px: int
    height_px: int
    cell_width_px: int
    cell_height_px: int

    @staticmethod
    def over(width_px: int, height_px: int, cells: tuple[int, int] = _CELLS) -> "Grid":
        """The grid for a photo of this size, with at most so many cells along its short and its long side."""
        short, long = sorted((width_px, height_px))
        side = max(ceil(short / cells[0]), ceil(long / cells[1]))
        if side > _LARGE_CELLS_PX:
            side = ceil(side / 4) * 4
        return Grid(width_px, height_px, min(side, width_px), min(side, height_px))

    @property
    def columns(self) -> int:
        """Cells in a row."""
        return ceil(self.width_px / self.cell_width_px)

    @property
    def rows(self) -> int:
        """Cells in a column."""
        return ceil(self.height_px / self.cell_height_px)

    def means(self, photo: Pixels) -> Pixels:
        """The mean of each cell, uint8 (rows, columns, 3) of the photo uint8 (H, W, 3)."""
        cell_width, cell_height = self.cell_width_px, self.cell_height_px
        while cell_width % 2 == 0 and cell_height % 2 == 0 and min(photo.shape[:2]) > 1:
            photo, cell_width, cell_height = halve(photo), cell_width // 2, cell_height // 2
        height, width = self.rows * cell_height, self.columns * cell_width
        bottom, right = max(0, height - photo.shape[0]), max(0, width - photo.shape[1])
        whole = cv2.copyMakeBorder(photo[:height, :width], 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return cv2.resize(whole, (self.columns, self.rows), interpolation=cv2.INTER_AREA)

    def sample(self, plane: Pixels) -> Pixels:
        """A plane uint8 (h, w) that covers the photo exactly, at the centres of the cells: uint8 (rows, columns).

        Of a finer plane the mean around each centre, or else what is thinner than a cell would come and go.
        """
        columns, rows = round(self.width_px / self.cell_width_px), round(self.height_px / self.cell_height_px)
        plane = resize(plane, min(plane.shape[1], columns), min(plane.shape[0], rows))
        step_x = self.cell_width_px * plane.shape[1] / self.width_px
        step_y = self.cell_height_px * plane.shape[0] / self.height_px
        placed = np.array([[step_x, 0, step_x / 2 - 0.5], [0, step_y, step_y / 2 - 0.5]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (self.columns, self.rows)
        return cv2.warpAffine(plane, placed, size, flags=how, borderMode=cv2.BORDER_REPLICATE)

    def nearest(self, cells: Pixels) -> Pixels:
        """The photo (H, W) in which each pixel has the value of its cell, uint8 (rows, columns)."""
        # Columns first: to repeat a row is then to copy memory, in an eighth of the time of cv2.resize.
        wide = np.repeat(cells, self.cell_width_px, axis=1)[:, : self.width_px]
        return np.repeat(wide, self.cell_height_px, axis=0)[: self.height_px]

    def mixed_strips(self, alpha: Pixels) -> Iterator[Strip]:
        """Strips that hold every 0 < alpha < 255 of a matte uint8 (H, W)."""
        for top, height in self._tops():
            yield from _strips(top, height, cv2.inRange(alpha[top : top + height], 1, 254).max(axis=0))

    def strips_near(self, cells: NDArray[np.bool_]) -> Iterator[Strip]:
        """Strips that hold every pixel whose bilinear neighbours include a marked cell, bool (rows, columns)."""
        near = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8))
        for top, height in self._tops():
            first, last = top // self.cell_height_px, (top + height - 1) // self.cell_height_px
            marked = near[first : last + 1].max(axis=0)
            if marked.any():
                yield from _strips(top, height, np.repeat(marked, self.cell_width_px)[: self.width_px])

    def _tops(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows of each strip: whole cells, but for the last."""
        step = ceil(_STRIP_PX / self.cell_height_px) * self.cell_height_px
        for top in range(0, self.height_px, step):
            yield top, min(step, self.height_px - top)

    def enlarger(self, cells: Floats) -> "Enlarger":
        """For cells float32 (rows, columns) or (rows, columns, 3)."""
        return Enlarger(self, cv2.copyMakeBorder(cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE))


@dataclass(frozen=True)
class Enlarger:
    """Cells at the photo's resolution, bilinearly between their centres, strip by strip.

    Args:
        grid: theirs.
        cells: float32 (rows + 2, columns + 2) or (rows + 2, columns + 2, 3), the outermost ones twice.
    """

    grid: Grid
    cells: Floats

    def at(self, strip: Strip) -> Floats:
        """What `strip.pack` would give of the enlarged cells; the strip is one of the grid's."""
        cell_width, cell_height = self.grid.cell_width_px, self.grid.cell_height_px
        row, rows = strip.top_px // cell_height, ceil(strip.height_px / cell_height) + 2
        column = strip.spans[0][0] // cell_width
        columns = ceil(strip.spans[-1][1] / cell_width) - column + 2
        # To the full width first: that is only a few rows. Then to the full height, of the spans alone.
        few = self.cells[row : row + rows, column : column + columns]
        wide = cv2.resize(few, (columns * cell_width, rows), interpolation=cv2.INTER_LINEAR)
        start = (column - 1) * cell_width
        packed = Strip(0, rows, [(left - start, right - start) for left, right in strip.spans]).pack(wide)
        size = (packed.shape[1], rows * cell_height)
        tall = cv2.resize(packed, size, interpolation=cv2.INTER_LINEAR)
        return tall[cell_height : cell_height + strip.height_px]
