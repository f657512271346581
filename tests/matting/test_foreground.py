"""Colours at the subject's edge: composites of which both layers are known, and the formula in float64."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.matting import blend, grabcut, guided
from mattebox_server.matting.foreground import Restorer, separate
from mattebox_server.matting.grid import Grid
from mattebox_server.matting.matte import make_matte
from mattebox_server.request import MatteMethod, MatteOptions
from plain_windows import PlainWindows

Doubles = NDArray[np.floating[Any]]

CELLS = [guided.CELLS, grabcut.CELLS]
SIZES = [(400, 300), (701, 901)]


@dataclass(frozen=True)
class Scene:
    """A disc with a soft edge; `photo` is what a camera makes of subject, background and matte."""

    subject: Doubles
    background: Doubles
    alpha: Pixels
    photo: Pixels

    @property
    def share(self) -> Doubles:
        share: Doubles = self.alpha[..., np.newaxis] / 255
        return share

    @property
    def mixed(self) -> NDArray[np.bool_]:
        mixed: NDArray[np.bool_] = (self.alpha > 0) & (self.alpha < 255)
        return mixed


def field(width: int, height: int, darkest: int, brightest: int, seed: int) -> Doubles:
    """Colours that change slowly, with grain."""
    rng = np.random.default_rng(seed)
    few = rng.uniform(darkest, brightest, (4, 5, 3)).astype(np.float32)
    smooth = cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC)
    colors: Doubles = (smooth + rng.normal(0, 5, smooth.shape)).clip(0, 255)
    return colors


def scene(width: int, height: int, edge_px: float) -> Scene:
    subject, background = field(width, height, 100, 250, 1), field(width, height, 0, 150, 2)
    rows, columns = np.indices((height, width)) + 0.5
    outside = np.hypot(columns - width / 2, rows - height / 2) - min(height, width) / 4
    alpha = np.rint(255 * (0.5 - outside / edge_px).clip(0, 1)).astype(np.uint8)
    share = alpha[..., np.newaxis] / 255
    return Scene(subject, background, alpha, np.rint(subject * share + background * (1 - share)).astype(np.uint8))


def restorer(scene: Scene, cells: tuple[int, int]) -> Restorer:
    height, width = scene.alpha.shape
    grid = Grid.over(width, height, cells)
    small = cv2.resize(scene.alpha, (grid.columns, grid.rows), interpolation=cv2.INTER_AREA)
    return Restorer.of(scene.alpha, *separate(grid.means(scene.photo), small), grid)


def restored(scene: Scene, cells: tuple[int, int]) -> Pixels:
    photo = scene.photo.copy()
    blend.restore(photo, scene.alpha, restorer(scene, cells))
    return photo


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("edge_px", [3, 8, 20])
@pytest.mark.parametrize("size", SIZES)
def test_most_of_the_old_background_goes(size: tuple[int, int], edge_px: float, cells: tuple[int, int]) -> None:
    known = scene(*size, edge_px)

    def halo(colors: Pixels) -> float:
        """Mean error of what the subject adds to a composite."""
        return float(np.abs(known.share * (colors - known.subject))[known.mixed].mean())

    assert halo(known.photo) > 10
    assert halo(restored(known, cells)) < 0.3 * halo(known.photo)


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("new", [(0, 0, 0), (255, 255, 255), (0, 255, 0)])
def test_on_a_new_background_the_old_one_shows_less(new: tuple[int, int, int], cells: tuple[int, int]) -> None:
    known = scene(400, 300, 8)
    truth = known.subject * known.share + np.array(new) * (1 - known.share)

    def error(cutout: Pixels) -> float:
        composite = cutout[..., :3] * known.share + np.array(new) * (1 - known.share)
        return float(np.abs(composite - truth)[known.mixed].mean())

    with_old = blend.cutout(known.photo.copy(), known.alpha)
    without = blend.cutout(known.photo.copy(), known.alpha, restorer(known, cells))
    assert error(without) < 0.3 * error(with_old)
    assert (with_old[..., 3] == without[..., 3]).all()


def enlarged(cells: Doubles, grid: Grid) -> Doubles:
    """Cells (rows, columns, 3) at all of the photo's pixels, bilinearly between centres."""
    columns = (np.arange(grid.columns) + 0.5) * grid.cell_width_px
    rows = (np.arange(grid.rows) + 0.5) * grid.cell_height_px
    x, y = np.arange(grid.width_px) + 0.5, np.arange(grid.height_px) + 0.5
    tall = np.apply_along_axis(lambda line: np.interp(y, rows, line), 0, cells)
    wide: Doubles = np.apply_along_axis(lambda line: np.interp(x, columns, line), 1, tall)
    return wide


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("size", [(400, 300), (850, 820), (500, 1), (3, 700)])
def test_restoring_by_strips_equals_the_formula(size: tuple[int, int], cells: tuple[int, int]) -> None:
    """With layers that change from cell to cell, so that a shift would show."""
    known = scene(*size, 60)
    grid, rng = Grid.over(*size, cells), np.random.default_rng(0)
    colors = rng.integers(0, 256, (2, grid.rows, grid.columns, 3)).astype(np.float32)
    layers = separate(grid.means(known.photo), grid.sample(known.alpha))
    layers[0][:], layers[1][:] = colors
    foreground, background = (enlarged(layer, grid) for layer in colors)
    unexplained = known.photo - known.share * foreground - (1 - known.share) * background
    expected = (foreground + known.share * unexplained).clip(0, 255)
    made = Restorer.of(known.alpha, *layers, grid)

    photo = known.photo.copy()
    blend.restore(photo, known.alpha, made)
    assert np.abs(photo - expected)[known.mixed].max(initial=0) <= 0.51
    photo = known.photo.copy()
    blend.composite(photo, known.alpha, np.full((1, size[0], 3), 77, np.uint8), made)
    expected = expected * known.share + 77 * (1 - known.share)
    assert np.abs(photo - expected)[known.mixed].max(initial=0) <= 0.51


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("size", SIZES)
def test_the_subject_s_own_pixels_stay(size: tuple[int, int], cells: tuple[int, int]) -> None:
    known = scene(*size, 8)
    opaque = known.alpha == 255
    behind = np.zeros((1, size[0], 3), np.uint8)
    composite = known.photo.copy()
    blend.composite(composite, known.alpha, behind, restorer(known, cells))
    cutout = blend.cutout(known.photo.copy(), known.alpha, restorer(known, cells))
    for colors in (restored(known, cells), composite, cutout[..., :3]):
        assert (colors[opaque] == known.photo[opaque]).all()


def classic_separate(means: Pixels, alpha: Pixels) -> tuple[Doubles, Doubles]:
    """Blur-fusion, again and again: Forte and Pitié's equations 4 to 7, in windows of 10, 3 and 1 %."""
    share = alpha[..., np.newaxis] / 255
    photo: Doubles = means.astype(np.float64)
    foreground = background = inside = outside = photo
    for radius in (0.1, 0.03, 0.01):
        windows = PlainWindows(radius * min(alpha.shape))

        def mean(colors: Doubles, weights: Doubles, windows: PlainWindows = windows) -> Doubles:
            return windows.enlarged(windows.means(colors * weights) / np.maximum(1e-9, windows.means(weights)))

        inside, outside = mean(foreground, share), mean(background, 1 - share)
        unexplained = photo - share * inside - (1 - share) * outside
        foreground = (inside + share * unexplained).clip(0, 255)
        background = (outside + (1 - share) * unexplained).clip(0, 255)
    return inside, outside


def test_layers_equal_the_formula_where_both_are_near() -> None:
    known = scene(200, 150, 30)
    layers = separate(known.photo, known.alpha)
    foreground, background = classic_separate(known.photo, known.alpha)
    near = (known.alpha > 50) & (known.alpha < 205)
    assert np.abs(layers[0] - foreground)[near].max() < 1.5
    assert np.abs(layers[1] - background)[near].max() < 1.5


@pytest.mark.parametrize("size", [(100, 100), (300, 40), (1, 50), (50, 1), (1, 1), (2, 3)])
def test_layers_are_defined_everywhere(size: tuple[int, int]) -> None:
    """Two plain colours: each layer has its own wherever there is some of it within reach, and no other anywhere."""
    width, height = size
    subject, background = np.array((200, 180, 160)), np.array((150, 190, 210))
    for alpha in (
        np.where(np.indices((height, width)).sum(axis=0) < (width + height) // 2, 255, 0).astype(np.uint8),
        np.zeros((height, width), np.uint8),
        np.full((height, width), 255, np.uint8),
        np.full((height, width), 100, np.uint8),
    ):
        share = alpha[..., np.newaxis] / 255
        photo = np.rint(subject * share + background * (1 - share)).astype(np.uint8)
        layers = separate(photo, alpha)
        for layer in layers:
            assert (layer >= 148).all()
            assert (layer <= 212).all()
    half = np.where(np.arange(100) < 50, 255, 0).astype(np.uint8) * np.ones((100, 1), np.uint8)
    layers = separate(np.where(half[..., np.newaxis] > 0, subject, background).astype(np.uint8), half)
    assert np.abs(layers[0][:, :55] - subject).max() < 3
    assert np.abs(layers[1][:, 45:] - background).max() < 3


@pytest.mark.parametrize("method", [MatteMethod.GUIDED, MatteMethod.GRABCUT])
def test_no_dark_specks(method: MatteMethod) -> None:
    """A light subject on a lighter background, with so much grain that faint bits of matte lie about."""
    rows, columns = np.indices((500, 500))
    outside = np.hypot(columns - 250, rows - 250) - 125
    share = (0.5 - outside / 6).clip(0, 1)[..., np.newaxis]
    photo = 230 * share + 200 * (1 - share) + np.random.default_rng(0).normal(0, 10, (500, 500, 3))
    photo = photo.clip(0, 255).astype(np.uint8)
    probability = cv2.resize((127.5 - outside * 10).clip(0, 255).astype(np.uint8), (450, 450))
    made = make_matte(photo, probability, probability, MatteOptions(method))
    made_restorer = made.restorer
    assert made_restorer is not None
    mixed = (made.alpha > 0) & (made.alpha < 255)
    blend.restore(photo, made.alpha, made_restorer)
    assert mixed.sum() > 1000
    assert photo[mixed].min() > 140
