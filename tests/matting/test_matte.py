"""Guided and grabcut: the published formula in float64, what comes of whole photos, and what can't go wrong."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.matting import answers, grabcut, guided
from mattebox_server.matting.answers import Answer
from mattebox_server.matting.grid import Grid
from mattebox_server.matting.matte import Matte, make_matte
from mattebox_server.request import MatteMethod, MatteOptions
from plain_windows import PlainWindows

Doubles = NDArray[np.floating[Any]]
Where = NDArray[np.bool_]

FOLLOWING = [MatteMethod.GUIDED, MatteMethod.GRABCUT]
PARAMETERS: Mapping[str, Any] = {
    **vars(answers),
    **vars(guided),
}  # tuned by measurements, so that they may change; the formula doesn't
RED, GREEN = (60.0, 60.0, 190.0), (150.0, 120.0, 60.0)


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def soft(photo: Pixels) -> Pixels:
    return cv2.GaussianBlur(photo, (0, 0), 4).reshape(photo.shape)


def disc(width: int, height: int, x: float = 0, y: float = 0) -> Where:
    """Half as high as the photo, so much beside its centre."""
    rows, columns = np.indices((height, width)) + 0.5
    inside: Where = np.hypot(columns - width / 2 - x, rows - height / 2 - y) < height / 4
    return inside


def painted(subject: Where, grain: float = 4) -> Pixels:
    """A red subject on green."""
    colors = np.where(subject[..., np.newaxis], RED, GREEN)
    return (colors + np.random.default_rng(1).normal(0, grain, colors.shape)).clip(0, 255).astype(np.uint8)


def coarse(shares: Doubles, width: int, height: int, blur_px: float) -> Pixels:
    """What a network of this size says of a photo in which the subject has these shares of each pixel."""
    small = cv2.resize(shares.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(255 * cv2.GaussianBlur(small, (0, 0), blur_px)).astype(np.uint8)


def matte(photo: Pixels, probability: Pixels, method: MatteMethod, keep_edge_colors: bool = True) -> Matte:
    mask = np.where(probability > 127, 255, 0).astype(np.uint8)
    return make_matte(photo, probability, mask, MatteOptions(method, keep_edge_colors=keep_edge_colors))


def overlap(alpha: Pixels, truth: Where, among: Where | None = None) -> float:
    """Intersection over union."""
    found, there = alpha > 127, np.ones_like(truth) if among is None else among
    return float((found & truth & there).sum() / ((found | truth) & there).sum())


def levels(name: str) -> tuple[int, int]:
    """Two of the probabilities, as the network's map has them."""
    low, high = PARAMETERS[name]
    return round(255 * low), round(255 * high)


def explanation(colors: Doubles, target: Doubles, radius: float) -> tuple[Doubles, Doubles]:
    """He, Sun and Tang's equations 14 to 16: alpha in [0, 1] that follows colours in [0, 1].

    The second is the share of the target's variance around each window that this explains.
    """
    windows = PlainWindows(radius * min(target.shape))
    mean_color, mean_target = windows.means(colors), windows.means(target)
    pairs = np.stack([windows.means(colors * colors[..., [other]]) for other in range(3)], axis=-1)
    covariance = pairs - mean_color[..., np.newaxis] * mean_color[..., np.newaxis, :]
    with_target = windows.means(colors * target[..., np.newaxis]) - mean_color * mean_target[..., np.newaxis]
    flat = float(PARAMETERS["_EPSILON"]) * np.eye(3)
    weights = np.linalg.solve(covariance + flat, with_target[..., np.newaxis])[..., 0]
    constants = mean_target - (weights * mean_color).sum(axis=-1)
    following: Doubles = (windows.spread(weights) * colors).sum(axis=-1) + windows.spread(constants)
    explained = windows.around((weights * with_target).sum(axis=-1))
    varied = windows.around(windows.means(target * target) - mean_target**2)
    return following, explained / (varied + PARAMETERS["_EVEN"])


def plain_radii(probability: Pixels) -> list[float]:
    """How wide the network is unsure along its edge, in short sides, within bounds for each run."""
    low, high = levels("_UNSURE")
    unsure = int(((probability >= low) & (probability <= high)).sum())
    around = np.pad(probability > 127, 1, "edge")
    height, width = probability.shape
    shifts = [around[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    both_sides = int((np.any(shifts, axis=0) & ~np.all(shifts, axis=0)).sum())
    wide = unsure / max(1, both_sides / 2) / min(height, width)
    return [float(np.clip(wide, PARAMETERS["_MIN_RADIUS"], most)) for most in PARAMETERS["_MAX_RADII"]]


def sharp(probability: Pixels) -> Pixels:
    """Through a sigmoid."""
    steep: Pixels = np.rint(255 / (1 + np.exp(-PARAMETERS["_SHARPNESS"] * (probability / 255 - 0.5)))).astype(np.uint8)
    return steep


def plain_settled(probability: Pixels, need: float = 1) -> Pixels:
    """Straight from 0 at a low probability over a half at one half to 1 at a high one."""
    low, high = (
        one + (other - one) * need for one, other in zip(PARAMETERS["SURE"], PARAMETERS["_SETTLED"], strict=True)
    )
    likely: Doubles = probability / 255
    below: Doubles = (0.5 * (likely - low) / (0.5 - low)).clip(0, 0.5)
    above: Doubles = (0.5 * (likely - 0.5) / (high - 0.5)).clip(0, 0.5)
    alpha: Pixels = np.rint(255 * (below + above)).astype(np.uint8)  # below one half only the first counts
    return alpha


def follow(method: Any, guide: Pixels, probability: Pixels, need: float = 1) -> guided.LinearMatte:
    """With the probability at the guide's own resolution."""
    answer = Answer.over(Grid(guide.shape[1], guide.shape[0], 1, 1), probability)
    assert (answer.probability == probability).all()
    made: guided.LinearMatte = method(guide, replace(answer, need=need))
    return made


def plain_guided(guide: Pixels, probability: Pixels, need: float) -> Doubles:
    """The matte at the guide's resolution, in [0, 255]."""
    colors, radii, likely = guide / 255, plain_radii(probability), probability / 255
    contrast = (explanation(colors, sharp(probability) / 255, radii[0])[0] - 0.5) * PARAMETERS["_GAIN"] + 0.5
    low, high = PARAMETERS["_LEVELS"]
    following, explained = explanation(colors, contrast.clip(0, 1), radii[1])
    stretched = (following - low) / (high - low)
    windows = PlainWindows(radii[1] * min(probability.shape))
    unsure = windows.means(4 * likely * (1 - likely)) / PARAMETERS["_FULL_SHARE"]
    share = need * windows.enlarged((unsure * explained).clip(0, 1))
    mixed = share * stretched + (1 - share) * plain_settled(probability, need) / 255
    alpha: Doubles = mixed.clip(0, 1) * 255
    never, always = levels("SURE")
    alpha[probability <= never], alpha[probability >= always] = 0, 255
    return alpha


def guides(height: int, width: int) -> dict[str, Pixels]:
    grey = noise(height, width, 1, seed=1).repeat(3, axis=2)
    return {
        "random": noise(height, width, 3),
        "grey": grey,
        "two tones": painted(disc(width, height), grain=0),
        "flat": np.full((height, width, 3), 90, np.uint8),
        "smooth": soft(noise(height, width, 3)),
        "dark": noise(height, width, 3) // 32,
    }


SIZES = [(60, 80), (90, 40), (1, 30), (30, 1), (1, 1), (2, 3)]


@pytest.mark.parametrize("kind", list(guides(1, 1)))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("need", [1, 0.4, 0])
def test_guided_equals_the_formula(size: tuple[int, int], kind: str, need: float) -> None:
    guide = guides(*size)[kind]
    for blur_px in (0.6, 3, 15):
        probability = coarse(disc(size[1], size[0], x=1).astype(np.float64), size[1], size[0], blur_px)
        expected = plain_guided(guide, probability, need)
        error = np.abs(follow(guided.guided, guide, probability, need).alpha - expected)
        assert error.max() <= 2
        assert error.mean() <= 0.3  # rounding alone is a quarter


@pytest.mark.parametrize("kind", list(guides(1, 1)))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", [guided.guided, grabcut.grabcut])
def test_away_from_edges_there_are_constants(method: Any, size: tuple[int, int], kind: str) -> None:
    guide, probability = guides(*size)[kind], coarse(disc(size[1], size[0]).astype(float), size[1], size[0], 3)
    made: guided.LinearMatte = follow(method, guide, probability)
    assert np.isin(made.alpha[~made.edge], (0, 255)).all()
    assert (made.rest[~made.edge] == made.alpha[~made.edge]).all()
    assert not made.weights[~made.edge].any()
    around = np.pad(made.alpha, 1, "edge")
    for y in range(3):
        for x in range(3):  # no change without an edge on both of its sides
            assert made.edge[around[y : y + size[0], x : x + size[1]] != made.alpha].all()


def test_what_is_half_transparent_everywhere_is_all_edge() -> None:
    made = follow(guided.guided, noise(30, 40, 3), np.full((30, 40), 128, np.uint8))
    assert made.edge.all()


def test_rendering_can_be_repeated() -> None:
    guide, probability = painted(disc(80, 60)), coarse(disc(80, 60, x=1).astype(np.float64), 80, 60, 3)
    made = follow(guided.guided, guide, probability)
    before, grid = made.alpha.copy(), Grid(80, 60, 1, 1)
    assert (made.render(255 - guide, grid) != made.render(guide, grid)).any()
    assert (made.alpha == before).all()


@pytest.mark.parametrize("blur_px", [0.6, 3, 15])
def test_rendering_at_the_resolution_of_the_cells_changes_nothing(blur_px: float) -> None:
    """But where the network is sure beside an edge: there the photo decides at full resolution."""
    for guide in guides(60, 80).values():
        probability = coarse(disc(80, 60).astype(np.float64), 80, 60, blur_px)
        made = follow(guided.guided, guide, probability)
        alpha = made.render(guide, Grid(80, 60, 1, 1)).astype(int)
        never, always = levels("SURE")
        same = (np.abs(alpha - made.alpha) <= 1) | (((probability <= never) | (probability >= always)) & made.edge)
        assert same.all()


def bilinear(cells: Doubles, grid: Grid) -> Doubles:
    """Cells (rows, columns, ...) at all of the photo's pixels."""
    columns = (np.arange(grid.columns) + 0.5) * grid.cell_width_px
    rows = (np.arange(grid.rows) + 0.5) * grid.cell_height_px
    x, y = np.arange(grid.width_px) + 0.5, np.arange(grid.height_px) + 0.5
    tall = np.apply_along_axis(lambda line: np.interp(y, rows, line), 0, cells)
    wide: Doubles = np.apply_along_axis(lambda line: np.interp(x, columns, line), 1, tall)
    return wide


@pytest.mark.parametrize("size", [(320, 160), (333, 171), (700, 490), (1, 900), (900, 1), (3, 700), (161, 80)])
@pytest.mark.parametrize("kind", ["random", "two tones", "smooth"])
def test_rendering_by_strips_equals_rendering_at_once(size: tuple[int, int], kind: str) -> None:
    width, height = size
    photo, grid = guides(height, width)[kind], Grid.over(width, height, guided.CELLS)
    probability = grid.sample(coarse(disc(width, height, x=1).astype(float), 90, 60, 2))
    made = follow(guided.guided, grid.means(photo), probability)
    whole = (bilinear(made.weights, grid) * photo).sum(axis=-1) + bilinear(made.rest, grid)
    alpha = made.render(photo, grid)
    assert alpha.shape == (height, width)
    assert np.abs(alpha - whole.clip(0, 255)).max() <= 0.51
    near = bilinear(made.edge.astype(np.float64), grid) > 0
    assert np.isin(alpha[~near], (0, 255)).all()


@pytest.mark.parametrize(
    ("size", "network"), [((500, 375), (320, 320)), ((1000, 667), (320, 320)), ((1300, 1290), (600, 500))]
)
def test_rendering_a_map_that_is_finer_than_cells(size: tuple[int, int], network: tuple[int, int]) -> None:
    """The rest has its own places, of which several belong to a cell."""
    width, height = size
    photo, grid = guides(height, width)["two tones"], Grid.over(width, height, guided.CELLS)
    answer = Answer.over(grid, coarse(disc(*network, x=1).astype(float), *network, 2))
    made = guided.guided(grid.means(photo), answer)
    assert made.parts > 1
    fine = grid.divided(made.parts)
    assert made.rest.shape == (fine.rows, fine.columns)
    whole = (bilinear(made.weights, grid) * photo).sum(axis=-1) + bilinear(made.rest, fine)
    alpha = made.render(photo, grid)
    near = grid.nearest(cv2.dilate(made.edge.astype(np.uint8), np.ones((3, 3), np.uint8))) > 0
    assert np.abs(alpha - whole.clip(0, 255))[near].max() <= 0.51
    assert np.isin(alpha[~near], (0, 255)).all()


def test_sharpening() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (answers.sharpen(every) == sharp(every)).all()


@pytest.mark.parametrize("need", [0, 0.3, 1])
def test_what_a_map_means_by_itself(need: float) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = answers.settled(every, need)
    assert np.abs(found.astype(int) - plain_settled(every, need)).max() <= 1  # a tie may be rounded to either side
    assert (found[every <= 5] == 0).all()
    assert (found[every >= 250] == 255).all()
    if not need:
        assert np.abs(found.astype(int) - every).max() <= 5


@pytest.mark.parametrize("unsure_px", [2, 8, 20])
def test_windows_are_as_large_as_the_network_is_unsure(unsure_px: int) -> None:
    """A straight edge in a network's map of 300 x 200."""
    ramp = np.interp(np.arange(300), [150 - 0.625 * unsure_px, 150 + 0.625 * unsure_px], [255, 0])  # 0.1 to 0.9
    probability = np.tile(np.rint(ramp).astype(np.uint8), (200, 1))
    smallest, largest = PARAMETERS["_MIN_RADIUS"], PARAMETERS["_MAX_RADII"]
    for radius, most in zip(answers.radii(probability), largest, strict=True):
        assert radius == pytest.approx(min(most, max(smallest, unsure_px / 200)), abs=1.01 / 200)
    assert answers.radii(probability.T.copy()) == answers.radii(probability)


def test_a_sure_network_has_the_last_word() -> None:
    """In small gaps, which the windows would close, and on specks."""
    never, always = levels("SURE")
    inside = disc(80, 60)
    probability: Pixels = np.where(inside, always - 1, never + 1).astype(np.uint8)
    probability[30, 40], probability[5, 5] = never, always
    for method in (guided.guided, grabcut.grabcut):
        alpha = follow(method, painted(inside), probability).alpha
        assert (alpha[30, 40], alpha[5, 5]) == (0, 255)
        assert (alpha[29:32, 39:42] == 255).sum() == 8
        assert (alpha[4:7, 4:7] == 0).sum() == 8
        noisy = noise(60, 80)
        alpha = follow(method, noise(60, 80, 3), noisy).alpha
        assert (alpha[noisy >= always] == 255).all()
        assert (alpha[noisy <= never] == 0).all()


@pytest.mark.parametrize("method", FOLLOWING)
@pytest.mark.parametrize("size", [(400, 300), (1001, 777)])
def test_a_disc_gets_its_true_edge_back(method: MatteMethod, size: tuple[int, int]) -> None:
    """The network has it blurred, and 3 px aside in its map of 300 px."""
    width, height = size
    truth = disc(width, height)
    photo = painted(truth, grain=8)
    probability = coarse(disc(width, height, x=3 * width / 300).astype(np.float64), 300, 300 * height // width, 3)
    band = disc(width, height, x=9) != disc(width, height, x=-9)
    classic = make_matte(photo, probability, np.where(probability > 127, 255, 0).astype(np.uint8),
                         MatteOptions(MatteMethod.GAUSSIAN)).alpha  # fmt: skip
    alpha = matte(photo, probability, method).alpha
    assert overlap(classic, truth, band) < 0.8
    assert overlap(alpha, truth, band) > 0.99
    assert np.abs(alpha - 255.0 * truth).mean() < 0.9  # a hard edge stays hard; the map's own is 3.4 and more
    assert np.abs(cv2.resize(probability, size) - 255.0 * truth).mean() > 3.4


def lined(left: int, line_px: int) -> Where:
    """A photo of 600 x 600 in which a line stands upright on a block."""
    subject = np.zeros((600, 600), bool)
    subject[120:480, left : left + line_px] = True
    subject[360:, 150:450] = True
    return subject


@pytest.mark.parametrize("method", FOLLOWING)
@pytest.mark.parametrize("left", [200, 201, 202, 203])
def test_a_line_as_wide_as_a_cell_stays(method: MatteMethod, left: int) -> None:
    truth = lined(left, 4)
    alpha = matte(painted(truth), coarse(truth.astype(np.float64), 450, 450, 0.5), method).alpha
    assert alpha[140:340, left : left + 4].mean() > 200
    assert alpha[140:340, left - 40 : left - 10].max() == 0


@pytest.mark.parametrize("method", FOLLOWING)
@pytest.mark.parametrize("left", [200, 201, 202, 203])
def test_a_line_of_two_pixels_stays(method: MatteMethod, left: int) -> None:
    truth = lined(left, 2)
    alpha = matte(painted(truth), np.where(truth, 255, 0).astype(np.uint8), method).alpha
    assert alpha[140:340, left : left + 2].mean() > 128


@pytest.mark.parametrize("method", FOLLOWING)
@pytest.mark.parametrize("size", [(400, 300), (1001, 777)])
def test_a_subject_that_touches_the_frame_has_no_seam(method: MatteMethod, size: tuple[int, int]) -> None:
    width, height = size
    truth = np.zeros((height, width), bool)
    truth[height // 3 :, : width // 2] = True
    alpha = matte(painted(truth), coarse(truth.astype(np.float64), 300, 225, 3), method).alpha
    assert (alpha[height // 3 + 12 :, : width // 2 - 12] == 255).all()
    assert (alpha[: height // 3 - 12] == 0).all()
    assert (alpha[:, width // 2 + 12 :] == 0).all()
    assert np.abs(alpha - 255.0 * truth).mean() < 0.3


@pytest.mark.parametrize("blur_px", [0, 1.5])
def test_a_map_as_fine_as_the_photo_comes_through(blur_px: float) -> None:
    """Also where the photo shows no edge at all, and where it shows another one."""
    truth = disc(400, 300).astype(np.float32)
    wanted = cv2.GaussianBlur(truth, (0, 0), blur_px) if blur_px else truth
    probability = np.rint(255 * wanted).astype(np.uint8)
    for photo in (painted(disc(400, 300)), painted(disc(400, 300, x=6)), np.full((300, 400, 3), 90, np.uint8)):
        alpha = matte(photo, probability, MatteMethod.GUIDED).alpha
        assert np.abs(alpha - 255.0 * wanted).max() <= 6  # what is sure becomes 0 and 255


def test_a_map_finer_than_the_photo_comes_through() -> None:
    truth = disc(800, 600)
    whole = disc(400, 300)
    alpha = matte(painted(whole), np.where(truth, 255, 0).astype(np.uint8), MatteMethod.GUIDED).alpha
    shares = truth.reshape(300, 2, 400, 2).mean(axis=(1, 3))
    assert np.abs(alpha - 255 * shares).max() <= 6


@pytest.mark.parametrize("seen", ["nothing", "noise"])
def test_a_sharp_map_is_not_blurred_where_the_photo_explains_nothing(seen: str) -> None:
    """It has half as many pixels as the photo along each side, in which it is right."""
    truth = disc(640, 480)
    probability = coarse(truth.astype(np.float64), 320, 240, 0.6)
    photo = np.full((480, 640, 3), 90, np.uint8) if seen == "nothing" else noise(480, 640, 3)
    alone = cv2.resize(probability, (640, 480), interpolation=cv2.INTER_LINEAR)
    alpha = matte(photo, probability, MatteMethod.GUIDED).alpha
    mistake, of_the_map = (np.abs(each - 255.0 * truth).mean() for each in (alpha, alone))
    assert mistake <= 1.02 * of_the_map
    assert overlap(alpha, truth) >= overlap(alone, truth) - 0.001


def test_the_photo_counts_by_what_it_explains() -> None:
    """The same map that is unsure over many cells: beside a photo with that edge, and beside one with none."""
    truth = disc(640, 480)
    probability = coarse(truth.astype(np.float64), 160, 120, 3)
    shown, hidden = (matte(photo, probability, MatteMethod.GUIDED).alpha
                     for photo in (painted(truth), np.full((480, 640, 3), 90, np.uint8)))  # fmt: skip
    mixed = [float(((alpha > 25) & (alpha < 230)).mean()) for alpha in (shown, hidden)]
    assert np.abs(shown - 255.0 * truth).mean() < 1
    assert mixed[0] < 0.2 * mixed[1]


@pytest.mark.parametrize(("pixel_px", "unsure_px", "expected"), [
    (0.7, 2, 0), (1.0, 2, 0), (1.25, 2, 0.5), (1.5, 2, 1), (4, 2, 1), (0.7, 20, 1), (1.25, 20, 1),
])  # fmt: skip
def test_how_much_a_map_needs_the_photo(pixel_px: float, unsure_px: float, expected: float) -> None:
    """By its own pixels' width, or if it is unsure along a straight edge in a map of 300 x 200."""
    ramp = np.interp(np.arange(300), [150 - 0.625 * unsure_px, 150 + 0.625 * unsure_px], [255, 0])
    probability = np.tile(np.rint(ramp).astype(np.uint8), (200, 1))
    assert answers.need_of_photo(probability, pixel_px) == pytest.approx(expected)


@given(width=st.integers(1, 400), height=st.integers(1, 300), network=st.tuples(*[st.integers(1, 60)] * 2))
@pytest.mark.parametrize("method", list(MatteMethod))
@settings(deadline=None, max_examples=15)
def test_nothing_and_all(method: MatteMethod, width: int, height: int, network: tuple[int, int]) -> None:
    photo = noise(height, width, 3)
    for value in (0, 255):
        alpha = matte(photo, np.full(network, value, np.uint8), method).alpha
        assert alpha.shape == (height, width)
        assert (alpha == value).all()


@pytest.mark.parametrize("method", FOLLOWING)
def test_a_flat_photo_has_the_network_s_edge(method: MatteMethod) -> None:
    truth = disc(400, 300)
    probability = coarse(truth.astype(np.float64), 100, 75, 2)
    alpha = matte(np.full((300, 400, 3), 90, np.uint8), probability, method).alpha
    # Where colours tell nothing, GrabCut makes the edge as short as it may.
    assert overlap(alpha, truth) > (0.9 if method is MatteMethod.GUIDED else 0.7)
    near = disc(400, 300, x=25) | disc(400, 300, x=-25) | disc(400, 300, y=25) | disc(400, 300, y=-25)
    assert (alpha[~near] == 0).all()


@pytest.mark.parametrize("method", FOLLOWING)
@pytest.mark.parametrize("value", [20, 110, 127, 128, 145, 235])
def test_the_same_probability_everywhere(method: MatteMethod, value: int) -> None:
    """No photo can tell anything apart then: only the curves are left, and of `guided` the map alone."""
    steep = float(sharp(np.full((1, 1), value, np.uint8))[0, 0]) / 255
    contrast = np.clip((steep - 0.5) * PARAMETERS["_GAIN"] + 0.5, 0, 1)
    low, high = PARAMETERS["_LEVELS"]
    expected = 255 * np.clip((contrast - low) / (high - low), 0, 1)
    if method is MatteMethod.GUIDED:
        expected = plain_settled(np.full((1, 1), value, np.uint8))[0, 0]
    for photo in (noise(200, 300, 3), np.full((200, 300, 3), 255, np.uint8)):
        alpha = matte(photo, np.full((20, 30), value, np.uint8), method).alpha
        assert np.abs(alpha - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (3, 2), (1, 900), (900, 1), (3, 2000), (33, 31)])
@pytest.mark.parametrize("method", list(MatteMethod))
def test_odd_shapes(method: MatteMethod, size: tuple[int, int]) -> None:
    width, height = size
    photo = painted(np.arange(width) * np.ones((height, 1)) < width / 2)
    for network in ((1, 1), (height, width), (40, 50)):
        made = matte(photo, noise(*network, seed=3), method, keep_edge_colors=False)
        assert made.alpha.shape == (height, width)
        assert made.alpha.dtype == np.uint8
        assert (made.restorer is not None) == (method in FOLLOWING)


@pytest.mark.parametrize("method", list(MatteMethod))
def test_colors_are_worked_out_on_demand(method: MatteMethod) -> None:
    photo, probability = painted(disc(40, 30)), coarse(disc(40, 30).astype(np.float64), 40, 30, 1)
    assert matte(photo, probability, method, keep_edge_colors=True).restorer is None
    made = matte(photo, probability, method, keep_edge_colors=False)
    assert (made.restorer is not None) == method.restores_colors
    assert (made.alpha == matte(photo, probability, method).alpha).all()
    assert (painted(disc(40, 30)) == photo).all()  # untouched


@pytest.mark.parametrize("size", [(1500, 1000), (1000, 1500), (3000, 200), (100, 90)])
def test_work_is_bounded(size: tuple[int, int]) -> None:
    photo = np.full((size[1], size[0], 3), 80, np.uint8)
    for method, cells in ((MatteMethod.GUIDED, guided.CELLS), (MatteMethod.GRABCUT, grabcut.CELLS)):
        restorer = matte(photo, np.zeros((10, 10), np.uint8), method, keep_edge_colors=False).restorer
        assert restorer is not None
        grid = restorer.foreground.grid
        assert grid == Grid.over(*size, cells)
        assert min(grid.rows, grid.columns) <= cells[0]
        assert max(grid.rows, grid.columns) <= cells[1]


def cut_off_arm() -> tuple[Pixels, Pixels, Where]:
    """A subject that the network knows but for its arm, which has a subject's colour and a third of its confidence."""
    arm, body = np.zeros((300, 400), bool), np.zeros((300, 400), bool)
    body[75:225, 50:200], arm[120:180, 200:350] = True, True
    confidence = np.where(body, 0.97, np.where(arm, 0.3, 0.02))
    return painted(body | arm, grain=10), coarse(confidence, 200, 150, 2), body | arm


def test_grabcut_finds_what_the_network_cuts_off() -> None:
    photo, probability, truth = cut_off_arm()
    assert overlap(matte(photo, probability, MatteMethod.GUIDED).alpha, truth) < 0.8
    assert overlap(matte(photo, probability, MatteMethod.GRABCUT).alpha, truth) > 0.98


def test_grabcut_cuts_off_what_the_network_adds() -> None:
    """A piece of the background, with little confidence."""
    body, piece = np.zeros((300, 400), bool), np.zeros((300, 400), bool)
    body[75:225, 50:200], piece[120:180, 200:350] = True, True
    confidence = np.where(body, 0.97, np.where(piece, 0.65, 0.02))
    photo, probability = painted(body, grain=10), coarse(confidence, 200, 150, 2)
    assert overlap(matte(photo, probability, MatteMethod.GUIDED).alpha, body) < 0.8
    assert overlap(matte(photo, probability, MatteMethod.GRABCUT).alpha, body) > 0.98


def test_grabcut_leaves_alone_what_the_network_is_sure_of() -> None:
    photo, probability, truth = cut_off_arm()
    sure = np.where(truth & (np.arange(400) < 200), 255, 0).astype(np.uint8)
    alpha = matte(photo, sure, MatteMethod.GRABCUT).alpha
    assert (alpha[:, 225:] == 0).all()
    photo[140:160, 100:150] = 128, 128, 128
    photo[20:40, 20:40] = RED
    alpha = matte(photo, probability, MatteMethod.GRABCUT).alpha
    assert (alpha[140:160, 100:150] == 255).all()
    assert (alpha[20:40, 20:40] == 0).all()


def speckled(value: int, speck: int, x: int = 20) -> Pixels:
    probability = np.full((30, 40), value, np.uint8)
    probability[15, x] = speck
    return probability


@pytest.mark.parametrize(
    "probability",
    [
        speckled(0, 255),
        speckled(255, 0),
        speckled(100, 140),
        speckled(140, 100),
        speckled(0, 255, x=0),
        np.full((30, 40), 128, np.uint8),
        np.full((30, 40), 127, np.uint8),
        noise(30, 40),
        100 + noise(30, 40) // 5,
    ],
)
def test_grabcut_with_hardly_anything_to_learn_from(probability: Pixels) -> None:
    for photo in (noise(30, 40, 3), np.full((30, 40, 3), 7, np.uint8), painted(disc(40, 30))):
        made = follow(grabcut.grabcut, photo, probability)
        assert np.isfinite(made.weights).all()
        assert np.isfinite(made.rest).all()
        assert matte(photo, probability, MatteMethod.GRABCUT).alpha.shape == (30, 40)


@pytest.mark.parametrize("method", FOLLOWING)
def test_the_same_photo_gives_the_same_matte(method: MatteMethod) -> None:
    """In any thread, whatever else used OpenCV's random numbers."""
    photo = soft(noise(200, 300, 3))  # no two sides of an edge have colours of their own
    probability = coarse(disc(300, 200).astype(np.float64), 100, 66, 6)

    def made(seed: int) -> bytes:
        cv2.setRNGSeed(seed)
        return matte(photo, probability, method).alpha.tobytes()

    with ThreadPoolExecutor(3) as threads:
        assert len({made(7), made(8), *threads.map(made, range(1, 7))}) == 1
