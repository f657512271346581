"""Preprocess, matte, blend and subjects: properties, and oracles in float64."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mattebox_server import blend
from mattebox_server.matte import hard_mask, make_matte
from mattebox_server.options import MatteMethod, MatteOptions
from mattebox_server.pixels import Pixels, resize
from mattebox_server.preprocess import content_size, preprocess
from mattebox_server.spec import Letterbox, Resize, ShortSide, Stretch
from mattebox_server.subjects import find_subjects

SIDES = st.integers(1, 90)
POLICIES: list[Resize] = [
    ShortSide(short_side_px=24, max_long_side_px=60),
    Stretch(width_px=20, height_px=33),
    Letterbox(width_px=40, height_px=31, fill=7),
]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@given(width=SIDES, height=SIDES, policy=st.sampled_from(POLICIES))
@settings(deadline=None, max_examples=150)
def test_model_input(width: int, height: int, policy: Resize) -> None:
    photo = noise(height, width, 3)
    made = preprocess(photo, policy)
    content = made.geometry.crop(made.image)
    assert made.image.flags.c_contiguous
    assert (content.shape[1], content.shape[0]) == content_size(width, height, policy)
    assert (content == resize(photo, content.shape[1], content.shape[0])).all()
    match policy:
        case ShortSide():
            assert max(content.shape[:2]) <= policy.max_long_side_px
            assert min(content.shape[:2]) <= policy.short_side_px
        case Stretch():
            assert made.image.shape == (33, 20, 3)
        case Letterbox():
            assert made.image.shape == (31, 40, 3)
            assert content.shape[1] == 40 or content.shape[0] == 31
            padding = np.ones((31, 40), np.uint8)
            made.geometry.crop(padding)[:] = 0
            assert (made.image[padding == 1] == 7).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 400), (675, 450)), ((400, 600), (450, 675)), ((500, 333), (675, 450)), ((450, 450), (450, 450))],
)
def test_short_side_rounds_as_torchvision(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert content_size(*size, ShortSide(short_side_px=450, max_long_side_px=1800)) == expected


def test_a_panorama_is_bounded() -> None:
    policy = ShortSide(short_side_px=450, max_long_side_px=1800)
    assert content_size(4000, 40, policy) == (1800, 18)
    assert content_size(40, 4000, policy) == (18, 1800)
    assert content_size(8000, 1, policy) == (1800, 1)
    assert content_size(1, 1, policy) == (450, 450)


@given(seed=st.integers(0, 50), kernel=st.sampled_from([1, 3, 7, 31]), height=st.integers(1, 50))
@settings(deadline=None, max_examples=80)
def test_gaussian_matte(seed: int, kernel: int, height: int) -> None:
    mask = np.where(noise(height, 40, seed=seed) > 128, 255, 0).astype(np.uint8)
    alpha = make_matte(mask, MatteOptions(MatteMethod.GAUSSIAN, kernel))
    expected = cv2.GaussianBlur(mask, (kernel, kernel), 0)
    assert (alpha == expected).all()
    assert (make_matte(mask, MatteOptions(MatteMethod.NONE)) == mask).all()
    for value in (0, 255):
        flat = np.full((height, 40), value, np.uint8)
        assert (make_matte(flat, MatteOptions(MatteMethod.GAUSSIAN, kernel)) == value).all()


@given(seed=st.integers(0, 50), kept=st.frozensets(st.integers(0, 255), max_size=20))
@settings(deadline=None, max_examples=50)
def test_hard_mask_of_classes(seed: int, kept: frozenset[int]) -> None:
    classes = noise(17, 23, seed=seed)
    mask = hard_mask(noise(17, 23), classes, kept)
    assert ((mask == 255) == np.isin(classes, sorted(kept))).all()
    assert set(np.unique(mask)) <= {0, 255}


def test_hard_mask_of_saliency_takes_the_likelier() -> None:
    foreground = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (hard_mask(foreground, None, frozenset({0})) == np.where(foreground >= 128, 255, 0)).all()


SHAPES = st.tuples(st.integers(1, 600), st.integers(1, 9))


@given(shape=SHAPES, seed=st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_blend_equals_the_formula_within_one_level(shape: tuple[int, int], seed: int) -> None:
    photo, behind, alpha = noise(*shape, 3, seed=seed), noise(*shape, 3, seed=seed + 1), noise(*shape, seed=seed + 2)
    alpha[alpha < 60], alpha[alpha > 200] = 0, 255
    weight = alpha[..., np.newaxis] / 255
    over_image = blend.over_image(photo, alpha, behind)
    assert np.abs(over_image - (photo * weight + behind * (1 - weight))).max() <= 1
    over_color = blend.over_color(photo, alpha, (10, 200, 77))
    assert np.abs(over_color - (photo * weight + np.array([10, 200, 77]) * (1 - weight))).max() <= 1
    for result, background in ((over_image, behind), (over_color, np.full_like(photo, (10, 200, 77)))):
        assert (result[alpha == 255] == photo[alpha == 255]).all()
        assert (result[alpha == 0] == background[alpha == 0]).all()


@given(shape=SHAPES, seed=st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_cutout(shape: tuple[int, int], seed: int) -> None:
    photo, alpha = noise(*shape, 3, seed=seed), noise(*shape, seed=seed + 1)
    alpha[alpha < 128] = 0
    result = blend.cutout(photo, alpha)
    assert (result[..., 3] == alpha).all()
    assert (result[alpha > 0][:, :3] == photo[alpha > 0]).all()
    assert not result[alpha == 0].any()


@given(picture=st.tuples(SIDES, SIDES), frame=st.tuples(SIDES, SIDES))
@settings(deadline=None, max_examples=150)
def test_cover_fills_the_frame(picture: tuple[int, int], frame: tuple[int, int]) -> None:
    covered = blend.cover(np.full((picture[1], picture[0], 3), 90, np.uint8), *frame)
    assert covered.shape == (frame[1], frame[0], 3)
    assert (covered == 90).all()


def test_cover_keeps_the_centre() -> None:
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    assert (blend.cover(stripes, 5, 5) == 255).all()
    assert (blend.cover(np.ascontiguousarray(stripes.transpose(1, 0, 2)), 40, 40) == 255).all()


def test_subjects() -> None:
    classes = np.zeros((10, 20), np.uint8)
    classes[2:4, 3:9], classes[5:, 10:] = 2, 1
    mask = np.where(classes > 0, 255, 0).astype(np.uint8)
    one, two = find_subjects(mask, classes, ("background", "one", "two"), (40, 10))
    assert (one.label, one.class_index, one.coverage, one.box) == ("one", 1, 0.25, (20, 5, 20, 5))
    assert (two.label, two.class_index, two.coverage, two.box) == ("two", 2, 0.06, (6, 2, 12, 2))
    assert find_subjects(np.zeros_like(mask), classes, ("background", "one", "two"), (40, 10)) == ()
    (whole,) = find_subjects(np.full_like(mask, 255), None, ("subject",), (3, 3))
    assert (whole.coverage, whole.box) == (1, (0, 0, 3, 3))


@given(seed=st.integers(0, 99), size=st.tuples(st.integers(1, 77), st.integers(1, 77)))
@settings(deadline=None, max_examples=60)
def test_boxes_lie_in_the_frame(seed: int, size: tuple[int, int]) -> None:
    classes = (noise(13, 29, seed=seed) > 250).astype(np.uint8)
    for subject in find_subjects(classes * 255, classes, ("background", "thing"), size):
        x, y, width, height = subject.box
        assert x >= 0
        assert y >= 0
        assert 1 <= width <= size[0] - x
        assert 1 <= height <= size[1] - y
