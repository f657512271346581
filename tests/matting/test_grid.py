"""The grid of cells and the strips: properties, and oracles in float64 over whole photos."""

from collections.abc import Iterable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Floats, Pixels, halve, opacity, resize, shrink_fast
from mattebox_server.matting import grabcut, guided
from mattebox_server.matting import grid as grid_module
from mattebox_server.matting.grid import Grid, Strip

SIDES = st.integers(1, 200)
CELLS = st.sampled_from([1, 2, 3, 7, 16, 20])
SEEDS = st.integers(0, 99)
MAX_STRIP_PX = 524_288

Doubles = NDArray[np.floating[Any]]


def square(width: int, height: int, side: int) -> Grid:
    """Cells of this side, thinner only where the photo is."""
    return Grid(width, height, min(side, width), min(side, height))


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def centres(grid: Grid) -> tuple[Doubles, Doubles]:
    """Returns the centres of the columns and rows of cells; the first pixel of the photo reaches from 0 to 1."""
    return (np.arange(grid.columns) + 0.5) * grid.cell_width_px, (np.arange(grid.rows) + 0.5) * grid.cell_height_px


def bilinear(cells: Floats, grid: Grid) -> Doubles:
    """Cells (rows, columns, ...) at all of the photo's pixels."""
    columns, rows = centres(grid)
    x, y = np.arange(grid.width_px) + 0.5, np.arange(grid.height_px) + 0.5
    tall = np.apply_along_axis(lambda line: np.interp(y, rows, line), 0, cells)
    wide: Doubles = np.apply_along_axis(lambda line: np.interp(x, columns, line), 1, tall)
    return wide


def covered(strips: Iterable[Strip], width: int, height: int, max_px: int = MAX_STRIP_PX) -> NDArray[np.bool_]:
    """The pixels (height, width) that strips hold. Each strip is checked."""
    times = np.zeros((height, width), np.int64)
    for strip in strips:
        edges = [edge for span in strip.spans for edge in span]
        assert edges == sorted(set(edges))  # in order, none empty, none touching
        assert edges[0] >= 0
        assert edges[-1] <= width
        assert strip.height_px > 0
        assert 0 <= strip.top_px <= height - strip.height_px
        assert strip.height_px * (edges[-1] - edges[0]) <= max_px
        for left, right in strip.spans:
            times[strip.top_px : strip.top_px + strip.height_px, left:right] += 1
    assert times.max(initial=0) <= 1
    once: NDArray[np.bool_] = times == 1
    return once


@given(width=st.integers(1, 100_000), height=st.integers(1, 100_000))
@pytest.mark.parametrize("cells", [guided.CELLS, grabcut.CELLS, (3, 5)])
def test_cells_are_as_small_as_they_may_be(cells: tuple[int, int], width: int, height: int) -> None:
    grid = Grid.over(width, height, cells)

    def fits(side: int) -> bool:
        few, many = sorted((-(-width // side), -(-height // side)))
        return few <= cells[0] and many <= cells[1]

    assert 0 <= grid.columns * grid.cell_width_px - width < grid.cell_width_px
    assert 0 <= grid.rows * grid.cell_height_px - height < grid.cell_height_px
    side = max(grid.cell_width_px, grid.cell_height_px)
    assert (grid.cell_width_px, grid.cell_height_px) == (min(side, width), min(side, height))
    assert sorted((grid.columns, grid.rows))[0] <= cells[0]
    assert max(grid.columns, grid.rows) <= cells[1]
    step = 1 if side <= 4 else 2 if side <= 8 else 4
    assert side % step == 0 or side > max(width, height)
    assert side == 1 or not fits(side - step) or side > max(width, height)


@given(width=SIDES, height=SIDES, side=CELLS, pixel_px=st.floats(0.2, 30))
def test_divided_cells_are_about_as_small_as_they_are_to_be(
    width: int, height: int, side: int, pixel_px: float
) -> None:
    grid = square(width, height, side)
    parts = grid.parts(pixel_px)
    fine = grid.divided(parts)
    assert fine.cell_width_px * parts == grid.cell_width_px
    assert fine.cell_height_px * parts == grid.cell_height_px
    if grid.cell_width_px == grid.cell_height_px:
        assert fine.cell_width_px == 1 or fine.cell_width_px <= 1.34 * pixel_px
        coarser = [less for less in range(1, parts) if grid.cell_width_px % less == 0]
        assert all(grid.cell_width_px / less > 1.33 * pixel_px for less in coarser)


def test_the_width_of_a_pixel() -> None:
    assert Grid.over(800, 600).pixel_px(np.zeros((300, 400), np.uint8)) == 2
    assert Grid.over(800, 600).pixel_px(np.zeros((600, 200), np.uint8)) == 2  # in the mean of both directions


@given(width=SIDES, height=SIDES, side=CELLS, seed=SEEDS)
@settings(deadline=None, max_examples=60)
def test_means(width: int, height: int, side: int, seed: int) -> None:
    grid = square(width, height, side)
    photo = noise(height, width, 3, seed=seed)
    means = grid.means(photo)
    assert means.shape == (grid.rows, grid.columns, 3)
    tall, wide = grid.cell_height_px, grid.cell_width_px
    rows, columns = height // tall, width // wide
    blocks = photo[: rows * tall, : columns * wide].reshape(rows, tall, columns, wide, 3).mean(axis=(1, 3))
    # Each halving rounds, and so does the last step.
    assert np.abs(means[:rows, :columns] - blocks).max(initial=0) <= 0.5 * (1 + np.log2(side))


@given(width=SIDES, height=SIDES, side=CELLS, seed=SEEDS)
@settings(deadline=None, max_examples=60)
def test_means_of_cells_that_reach_beyond_the_photo(width: int, height: int, side: int, seed: int) -> None:
    """Halving leaves out less than a cell, so that they lie between the extremes of the last two cells."""
    grid = square(width, height, side)
    photo = noise(height, width, 3, seed=seed)
    means = grid.means(photo)
    for row in {0, grid.rows - 1}:
        for column in {0, grid.columns - 1}:
            top, left = max(0, row - 1) * grid.cell_height_px, max(0, column - 1) * grid.cell_width_px
            bottom, right = (row + 1) * grid.cell_height_px, (column + 1) * grid.cell_width_px
            near = photo[top:bottom, left:right].reshape(-1, 3)
            assert (means[row, column] >= near.min(axis=0)).all()
            assert (means[row, column] <= near.max(axis=0)).all()
    assert (grid.means(np.full_like(photo, (3, 128, 250))) == (3, 128, 250)).all()


@given(data=st.data(), width=st.integers(2, 200), height=st.integers(2, 200), side=CELLS)
@settings(deadline=None, max_examples=60)
def test_a_sampled_ramp_is_that_ramp(data: st.DataObject, width: int, height: int, side: int) -> None:
    grid = square(width, height, min(side, width // 2, height // 2))
    # No finer than the cells.
    plane_width = data.draw(st.integers(2, min(60, round(width / grid.cell_width_px))), label="plane_width")
    plane_height = data.draw(st.integers(2, min(60, round(height / grid.cell_height_px))), label="plane_height")
    across = np.linspace(0, 120, plane_width)[np.newaxis] + np.linspace(0, 120, plane_height)[:, np.newaxis]
    x, y = centres(grid)

    def level(position: Doubles, photo_px: int, cell_px: int, plane_px: int) -> Doubles:
        coarser = min(plane_px, round(photo_px / cell_px))  # of both, beyond whose outermost centres there is theirs
        share = (position / photo_px).clip(0.5 / coarser, 1 - 0.5 / coarser)
        return 120 * (share * plane_px - 0.5) / (plane_px - 1)

    expected = (
        level(x, width, grid.cell_width_px, plane_width)[np.newaxis]
        + level(y, height, grid.cell_height_px, plane_height)[:, np.newaxis]
    )
    found = grid.sample(np.rint(across).astype(np.uint8))
    assert found.shape == (grid.rows, grid.columns)
    # Ramp and result are rounded, the place too; and means of cut pixels bend the ramp at its ends.
    steps = 120 / (plane_width - 1) + 120 / (plane_height - 1)
    assert np.abs(found - expected).max() <= 1.01 + steps / 16


@given(columns=st.integers(1, 20), rows=st.integers(1, 20), side=CELLS, finer=st.integers(1, 4), seed=SEEDS)
@settings(deadline=None, max_examples=60)
def test_of_a_finer_plane_each_cell_has_its_mean(columns: int, rows: int, side: int, finer: int, seed: int) -> None:
    """However thin what it shows is."""
    grid = Grid(columns * side, rows * side, side, side)
    plane = np.where(noise(rows * finer, columns * finer, seed=seed) > 200, 255, 0).astype(np.uint8)
    expected = plane.reshape(rows, finer, columns, finer).mean(axis=(1, 3))
    assert np.abs(grid.sample(plane) - expected).max() <= 1


@given(width=SIDES, height=SIDES, side=CELLS, seed=SEEDS)
@settings(deadline=None, max_examples=60)
def test_nearest(width: int, height: int, side: int, seed: int) -> None:
    grid = square(width, height, side)
    cells = noise(grid.rows, grid.columns, seed=seed)
    rows, columns = np.arange(height) // grid.cell_height_px, np.arange(width) // grid.cell_width_px
    assert (grid.nearest(cells) == cells[rows[:, np.newaxis], columns]).all()


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 200)),
    side=CELLS,
    boxes=st.lists(st.tuples(*[st.integers(0, 299)] * 2, *[st.integers(1, 120)] * 2), max_size=5),
    dots=st.integers(0, 6),
    seed=SEEDS,
    max_px=st.sampled_from([700, 3000, MAX_STRIP_PX]),
)
@settings(deadline=None, max_examples=150)
def test_mixed_strips(
    size: tuple[int, int], side: int, boxes: list[tuple[int, int, int, int]], dots: int, seed: int, max_px: int
) -> None:
    width, height = size
    rng = np.random.default_rng(seed)
    alpha = np.where(rng.random((height, width)) < 0.5, 255, 0).astype(np.uint8)
    for x, y, box_width, box_height in boxes:
        alpha[y : y + box_height, x : x + box_width] = rng.choice([1, 128, 254])
    for _ in range(dots):
        alpha[rng.integers(height), rng.integers(width)] = rng.choice([1, 254])
    with mock.patch.object(grid_module, "_MAX_STRIP_PX", max_px):
        strips = list(square(width, height, side).mixed_strips(alpha))
    mixed = (alpha > 0) & (alpha < 255)
    assert (covered(strips, width, height, max_px) >= mixed).all()
    assert strips or not mixed.any()
    assert mixed.any() or not strips


def test_strips_hold_hardly_more_than_they_must() -> None:
    alpha = np.zeros((400, 900), np.uint8)
    alpha[100:110, 300:310] = alpha[100:110, 600:620] = 7
    strips = list(Grid.over(900, 400).mixed_strips(alpha))
    assert covered(strips, 900, 400).sum() <= 130 * 30
    assert [strip.spans for strip in strips] == [[(300, 310), (600, 620)]]


def test_a_wide_photo_has_strips_that_fit() -> None:
    width, height = 30_000, 70
    alpha = np.full((height, width), 9, np.uint8)
    alpha[:, 11_000:12_000] = 255
    strips = list(Grid.over(width, height).mixed_strips(alpha))
    assert (covered(strips, width, height) == (alpha == 9)).all()
    assert len(strips) < 12


@given(width=st.integers(1, 300), height=st.integers(1, 200), side=CELLS, share=st.sampled_from([0.0, 0.01, 0.3, 1.0]))
@settings(deadline=None, max_examples=100)
def test_strips_near(width: int, height: int, side: int, share: float) -> None:
    grid = square(width, height, side)
    cells = np.random.default_rng(width).random((grid.rows, grid.columns)) < share
    strips = list(grid.strips_near(cells))
    # A cell counts up to the centres of its neighbours.
    columns, rows = centres(grid)
    by_column = np.abs(np.arange(width) + 0.5 - columns[:, np.newaxis]) < grid.cell_width_px
    by_row = np.abs(np.arange(height) + 0.5 - rows[:, np.newaxis]) < grid.cell_height_px
    near = by_row.T.astype(int) @ cells.astype(int) @ by_column.astype(int) > 0
    assert (covered(strips, width, height) >= near).all()
    assert cells.any() or not strips
    assert all(strip.top_px % grid.cell_height_px == 0 for strip in strips)


@given(width=st.integers(1, 300), height=st.integers(1, 200), seed=SEEDS, planes=st.sampled_from([(), (3,)]))
@settings(deadline=None, max_examples=40)
def test_pack_and_unpack(width: int, height: int, seed: int, planes: tuple[int, ...]) -> None:
    alpha = np.where(noise(height, width, seed=seed) > 250, 1, 0).astype(np.uint8)
    image = noise(height + 2, width + 3, *planes, seed=seed)[1:-1, 2:-1]
    copy = np.zeros_like(image)
    strips = list(square(width, height, 7).mixed_strips(alpha))
    for strip in strips:
        packed = strip.pack(image)
        assert packed.shape[:2] == (strip.height_px, sum(right - left for left, right in strip.spans))
        strip.unpack(packed, copy)
    there = covered(strips, width, height)
    assert (copy[there] == image[there]).all()
    assert not copy[~there].any()


@given(
    width=SIDES, height=SIDES, side=st.sampled_from([1, 2, 3, 20]), planes=st.sampled_from([(), (3,)]), seed=SEEDS
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_enlarged_strips(width: int, height: int, side: int, planes: tuple[int, ...], seed: int) -> None:
    grid = square(width, height, side)
    rng = np.random.default_rng(seed)
    cells = rng.normal(0, 100, (grid.rows, grid.columns, *planes)).astype(np.float32)
    enlarger, whole = grid.enlarger(cells), bilinear(cells, grid)
    marked = rng.random((grid.rows, grid.columns)) < 0.02
    marked[rng.integers(grid.rows), rng.integers(grid.columns)] = True
    for strip in grid.strips_near(marked):
        found = enlarger.at(strip)
        assert found.dtype == np.float32
        expected = np.concatenate(
            [whole[strip.top_px : strip.top_px + strip.height_px, left:right] for left, right in strip.spans], axis=1
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (3, 900), (1, 1), (2000, 1500)])
def test_enlarged_strips_of_thin_and_large_photos(size: tuple[int, int]) -> None:
    grid = Grid.over(*size)
    rng = np.random.default_rng(0)
    cells = rng.normal(0, 100, (grid.rows, grid.columns, 3)).astype(np.float32)
    enlarger, whole = grid.enlarger(cells), bilinear(cells, grid)
    marked = rng.random((grid.rows, grid.columns)) < 0.003
    marked[-1, -1] = marked[0, 0] = True
    for strip in grid.strips_near(marked):
        expected = np.concatenate(
            [whole[strip.top_px : strip.top_px + strip.height_px, left:right] for left, right in strip.spans], axis=1
        )
        np.testing.assert_allclose(enlarger.at(strip), expected, rtol=0, atol=1e-3)


@given(width=st.integers(2, 200), height=st.integers(2, 200), seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_halve(width: int, height: int, seed: int) -> None:
    photo = noise(height, width, 3, seed=seed)
    rows, columns = height // 2, width // 2
    blocks = photo[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3))
    assert np.abs(halve(photo) - blocks).max() <= 0.5


@given(size=st.tuples(SIDES, SIDES), new=st.tuples(st.integers(1, 100), st.integers(1, 100)))
@settings(deadline=None, max_examples=100)
def test_shrink_fast_shifts_by_less_than_a_pixel_of_the_result(size: tuple[int, int], new: tuple[int, int]) -> None:
    width, height = size
    ramp = (np.linspace(0, 200, width)[np.newaxis] * np.ones((height, 1))).round().astype(np.uint8)
    small = shrink_fast(ramp, *new)
    assert small.shape == (new[1], new[0])
    step = 200 / max(1, min(width, new[0]) - 1)  # between pixels of the coarser one
    assert np.abs(small.astype(int) - resize(ramp, *new)).max() <= step + 3


def test_resize() -> None:
    photo = noise(40, 60, 3)
    assert resize(photo, 60, 40) is photo
    assert shrink_fast(photo, 60, 40) is photo
    lines = np.zeros((60, 60), np.uint8)
    lines[:, ::3] = 240
    assert (resize(lines, 20, 60) == 80).all()  # the mean; nothing aliases
    step = np.array([[0, 200]], np.uint8)
    assert resize(step, 8, 1).tolist() == [[0, 0, 25, 75, 125, 175, 200, 200]]


def test_opacity() -> None:
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    weight = opacity(alpha)
    assert weight.dtype == np.float32
    assert np.abs(weight - (alpha / 255)[..., np.newaxis]).max() < 1e-6
    assert weight.shape == (16, 16, 3)
    assert (weight[15, 15] == 1).all()
    assert not weight[0, 0].any()


def test_of_a_finer_plane_cells_get_the_mean() -> None:
    plane = np.zeros((60, 80), np.uint8)
    plane[:, 33] = 255  # a line that a cell's centre need not meet
    found = Grid(40, 30, 4, 4).sample(plane)  # a cell is 8 of its pixels
    assert found.shape == (8, 10)
    assert np.abs(found[:, 4].astype(int) - 255 / 8).max() <= 2
    assert not found[:, [0, 1, 2, 6, 7]].any()
