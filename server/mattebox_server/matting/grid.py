"""Divides a photo into cells, for work at low resolution, and into strips, for work at full resolution.

Work at full resolution is only worth its time at edges. A strip is a few rows high and holds only the columns at edges,
side by side, so that few calls of NumPy and OpenCV work on many pixels, in planes that fit into a cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Image, Pixels, halve, resize

_CELLS = (256, 1024)
# Cells larger than 4 px have even sides, so that they can be divided, and those larger than 8 px have sides that are
# multiples of four, whose means take half the time.
_STEPS = ((2, 4), (4, 8))
_STRIP_PX = 128
_ABOUT = 4 / 3  # cells may be wider than what they are to be as small as
_MAX_STRIP_PX = 524_288  # pixels of a strip from its first column to its last, which bounds the memory of float planes
_GAP_PX = 16  # two spans with at most so many columns between them are joined


@dataclass(frozen=True)
class Strip:
    """Some columns of some rows of an image."""

    top_px: int  # the first row
    height_px: int  # the number of rows
    spans: list[tuple[int, int]]  # their first columns and the columns after their last, from left to right; none empty

    def pack(self, image: Image) -> Image:
        """Returns the strip's part of an image (H, W, ...), with its spans side by side."""
        rows = image[self.top_px : self.top_px + self.height_px]
        packed: Image = np.concatenate([rows[:, left:right] for left, right in self.spans], axis=1)  # pyright: ignore
        return packed

    def unpack(self, values: Image, image: Image) -> None:
        """Writes values in the form that `pack` returns into their places in an image (H, W, ...)."""
        rows, done = image[self.top_px : self.top_px + self.height_px], 0
        for left, right in self.spans:
            rows[:, left:right] = values[:, done : done + right - left]
            done += right - left


def _strips(top_px: int, height_px: int, marked: NDArray[np.uint8]) -> Iterator[Strip]:
    """Yields strips of these rows that hold every column where `marked` uint8 (W,) isn't 0."""
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
    """Returns the runs of columns where `marked` uint8 (W,) isn't 0. Runs with a narrow gap are joined."""
    columns = np.flatnonzero(marked)
    if not len(columns):
        return []
    gaps = np.flatnonzero(columns[1:] - columns[:-1] > _GAP_PX)
    firsts, lasts = [columns[0], *columns[gaps + 1]], [*columns[gaps], columns[-1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True)
class Grid:
    """Cells over a photo. The last cell of a row or column may reach beyond the photo."""

    width_px: int  # of the photo
    height_px: int
    cell_width_px: int  # equals the height unless the photo is thinner
    cell_height_px: int

    @staticmethod
    def over(width_px: int, height_px: int, cells: tuple[int, int] = _CELLS) -> "Grid":
        """Returns the grid over a photo with at most so many cells along its short and its long side."""
        short, long = sorted((width_px, height_px))
        side = max(ceil(short / cells[0]), ceil(long / cells[1]))
        for step, least in _STEPS:
            side = ceil(side / step) * step if side > least else side
        return Grid(width_px, height_px, min(side, width_px), min(side, height_px))

    @property
    def columns(self) -> int:
        """Returns the number of cells in a row."""
        return ceil(self.width_px / self.cell_width_px)

    @property
    def rows(self) -> int:
        """Returns the number of cells in a column."""
        return ceil(self.height_px / self.cell_height_px)

    def means(self, photo: Pixels) -> Pixels:
        """Returns the mean of each cell of the photo uint8 (H, W, 3): uint8 (rows, columns, 3)."""
        cell_width, cell_height = self.cell_width_px, self.cell_height_px
        while cell_width % 2 == 0 and cell_height % 2 == 0 and min(photo.shape[:2]) > 1:
            photo, cell_width, cell_height = halve(photo), cell_width // 2, cell_height // 2
        height, width = self.rows * cell_height, self.columns * cell_width
        bottom, right = max(0, height - photo.shape[0]), max(0, width - photo.shape[1])
        whole = cv2.copyMakeBorder(photo[:height, :width], 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        if cell_width % 2 and cell_height % 2:  # half the time of INTER_AREA; even windows would be rounded up
            whole = cv2.blur(whole, (cell_width, cell_height), anchor=(0, 0))
            return cv2.resize(whole, (self.columns, self.rows), interpolation=cv2.INTER_NEAREST)
        return cv2.resize(whole, (self.columns, self.rows), interpolation=cv2.INTER_AREA)

    def sample(self, plane: Pixels) -> Pixels:
        """Samples a plane uint8 (h, w) over the whole photo at the centres of the cells: uint8 (rows, columns).

        A plane that is finer than the grid is averaged around each centre, because lines thinner than a cell would
        otherwise be lost in places. Up to twice as fine, interpolation is a mean already, at a quarter of the time.
        """
        columns, rows = round(self.width_px / self.cell_width_px), round(self.height_px / self.cell_height_px)
        if plane.shape[1] > 2 * columns or plane.shape[0] > 2 * rows:
            plane = resize(plane, min(plane.shape[1], columns), min(plane.shape[0], rows))
        step_x = self.cell_width_px * plane.shape[1] / self.width_px
        step_y = self.cell_height_px * plane.shape[0] / self.height_px
        placed = np.array([[step_x, 0, step_x / 2 - 0.5], [0, step_y, step_y / 2 - 0.5]])
        size, how = (self.columns, self.rows), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(plane, placed, size, flags=how, borderMode=cv2.BORDER_REPLICATE)

    def pixel_px(self, plane: Pixels) -> float:
        """Returns how many pixels of the photo one of a plane uint8 (h, w) over all of it is wide, in the mean."""
        return sqrt(self.width_px * self.height_px / plane.size)

    def parts(self, pixel_px: float) -> int:
        """Returns the least number by which `divided` makes cells about as small as something of this width."""
        side = min(self.cell_width_px, self.cell_height_px)
        small = (parts for parts in range(1, side) if self._divides(parts) and side <= _ABOUT * parts * pixel_px)
        return next(small, side if self._divides(side) else 1)

    def _divides(self, parts: int) -> bool:
        return self.cell_width_px % parts == 0 == self.cell_height_px % parts

    def divided(self, parts: int) -> "Grid":
        """Returns the grid of cells that are so many times smaller."""
        return Grid(self.width_px, self.height_px, self.cell_width_px // parts, self.cell_height_px // parts)

    def nearest(self, cells: Pixels) -> Pixels:
        """Returns an image uint8 (H, W) in which each pixel has the value of its cell, uint8 (rows, columns)."""
        # The columns come first, so that repeating a row only copies memory: an eighth of the time of cv2.resize.
        wide = np.repeat(cells, self.cell_width_px, axis=1)[:, : self.width_px]
        return np.repeat(wide, self.cell_height_px, axis=0)[: self.height_px]

    def mixed_strips(self, alpha: Pixels) -> Iterator[Strip]:
        """Yields strips that hold every pixel with 0 < alpha < 255 of a matte uint8 (H, W)."""
        for top, height in self._tops():
            yield from _strips(top, height, cv2.inRange(alpha[top : top + height], 1, 254).max(axis=0))

    def strips_near(self, cells: NDArray[np.bool_]) -> Iterator[Strip]:
        """Yields strips that hold every pixel whose bilinear neighbours include a marked cell, bool (rows, columns)."""
        near = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8))
        for top, height in self._tops():
            first, last = top // self.cell_height_px, (top + height - 1) // self.cell_height_px
            marked = near[first : last + 1].max(axis=0)
            if marked.any():
                yield from _strips(top, height, np.repeat(marked, self.cell_width_px)[: self.width_px])

    def _tops(self) -> Iterator[tuple[int, int]]:
        """Yields the first row and the number of rows of each strip. All strips but the last hold whole cells."""
        step = ceil(_STRIP_PX / self.cell_height_px) * self.cell_height_px
        for top in range(0, self.height_px, step):
            yield top, min(step, self.height_px - top)

    def enlarger(self, cells: Floats) -> "Enlarger":
        """Returns the enlarger of cells float32 (rows, columns) or (rows, columns, 3)."""
        return Enlarger(self, cv2.copyMakeBorder(cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE))


@dataclass(frozen=True)
class Enlarger:
    """Interpolates a grid's cells bilinearly to the photo's resolution, strip by strip."""

    grid: Grid
    cells: Floats  # float32 (rows + 2, columns + 2, ...), in which the outermost cells are repeated

    def at(self, strip: Strip) -> Floats:
        """Returns the enlarged cells of one of the grid's strips, in the form that `Strip.pack` returns."""
        cell_width, cell_height = self.grid.cell_width_px, self.grid.cell_height_px
        row, rows = strip.top_px // cell_height, ceil(strip.height_px / cell_height) + 2
        column = strip.spans[0][0] // cell_width
        columns = ceil(strip.spans[-1][1] / cell_width) - column + 2
        # The few rows are enlarged to the full width first, and then only the spans to the full height.
        few = self.cells[row : row + rows, column : column + columns]
        wide = cv2.resize(few, (columns * cell_width, rows), interpolation=cv2.INTER_LINEAR)
        start = (column - 1) * cell_width
        packed = Strip(0, rows, [(left - start, right - start) for left, right in strip.spans]).pack(wide)
        tall = cv2.resize(packed, (packed.shape[1], rows * cell_height), interpolation=cv2.INTER_LINEAR)
        return tall[cell_height : cell_height + strip.height_px]
