"""From photo to model input, from classes to mask, and what was found: properties and oracles."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mattebox_server.imaging.pixels import Pixels, resize
from mattebox_server.imaging.preprocess import content_size, preprocess
from mattebox_server.imaging.rectangle import Rectangle
from mattebox_server.matting.matte import hard_mask, make_matte
from mattebox_server.matting.subjects import find_subjects
from mattebox_server.request import MatteMethod, MatteOptions
from mattebox_server.spec import Letterbox, Resize, ShortSide, Stretch

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
    made = preprocess(photo, policy, exact=True)
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


@given(width=st.integers(30, 300), height=st.integers(30, 300), policy=st.sampled_from(POLICIES))
@settings(deadline=None, max_examples=60)
def test_a_fast_model_input_is_hardly_another(width: int, height: int, policy: Resize) -> None:
    rows, columns = np.indices((height, width))
    photo = np.stack([60 * rows / height + 60 * columns / width] * 3, axis=-1).astype(np.uint8)
    fast, exact = preprocess(photo, policy), preprocess(photo, policy, exact=True)
    assert fast.geometry == exact.geometry
    assert fast.image.flags.c_contiguous
    step = 60 / exact.geometry.width_px + 60 / exact.geometry.height_px  # a pixel of the result
    assert np.abs(fast.image.astype(int) - exact.image).max() <= 3 + step


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
    photo, unused = noise(height, 40, 3, seed=seed), noise(height, 40, seed=seed + 1)

    def alpha(mask: Pixels, options: MatteOptions, photo: Pixels = photo) -> Pixels:
        return make_matte(photo, unused, mask, options).alpha

    classic, hard = MatteOptions(MatteMethod.GAUSSIAN, kernel), MatteOptions(MatteMethod.NONE)
    blurred = cv2.GaussianBlur(mask, (kernel, kernel), 0)
    assert (alpha(mask, classic) == blurred).all()
    assert (alpha(mask, hard) == mask).all()
    for value in (0, 255):
        assert (alpha(np.full((height, 40), value, np.uint8), classic) == value).all()
    large = np.zeros((2 * height, 100, 3), np.uint8)
    for options, small in ((classic, blurred), (hard, mask)):
        enlarged = cv2.resize(small, (100, 2 * height), interpolation=cv2.INTER_LINEAR)
        assert (alpha(mask, options, large) == enlarged).all()


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


LABELS = ("background", "one", "two")


def test_subjects() -> None:
    classes = np.zeros((10, 20), np.uint8)
    classes[2:4, 3:9], classes[5:, 10:] = 2, 1
    mask = np.where(classes > 0, 255, 0).astype(np.uint8)
    one, two = find_subjects(mask, classes, LABELS, (40, 10), Rectangle(0, 0, 40, 10))
    assert (one.label, one.class_index, one.coverage, one.box) == ("one", 1, 0.25, (20, 5, 20, 5))
    assert (two.label, two.class_index, two.coverage, two.box) == ("two", 2, 0.06, (6, 2, 12, 2))
    assert find_subjects(np.zeros_like(mask), classes, LABELS, (40, 10), Rectangle(0, 0, 40, 10)) == ()
    kept = np.where(classes == 2, mask, 0).astype(np.uint8)
    assert find_subjects(kept, classes, LABELS, (40, 10), Rectangle(0, 0, 40, 10)) == (two,)
    (whole,) = find_subjects(np.full_like(mask, 255), None, ("subject",), (3, 3), Rectangle(0, 0, 3, 3))
    assert (whole.coverage, whole.box) == (1, (0, 0, 3, 3))
    assert find_subjects(np.zeros_like(mask), None, ("subject",), (3, 3), Rectangle(0, 0, 3, 3)) == ()


def test_subjects_in_a_frame() -> None:
    """Boxes are the frame's, coverage is the whole photo's."""
    classes = np.zeros((10, 20), np.uint8)
    classes[2:4, 3:9], classes[5:, 10:] = 2, 1
    mask = np.where(classes > 0, 255, 0).astype(np.uint8)
    one, two = find_subjects(mask, classes, LABELS, (40, 10), Rectangle(10, 3, 20, 4))
    assert (one.label, one.coverage, one.box) == ("one", 0.25, (10, 2, 10, 2))
    assert (two.label, two.coverage, two.box) == ("two", 0.06, (0, 0, 8, 1))
    (alone,) = find_subjects(mask, classes, LABELS, (40, 10), Rectangle(18, 0, 22, 10))
    assert (alone.label, alone.box) == ("one", (2, 5, 20, 5))
    assert find_subjects(mask, classes, LABELS, (40, 10), Rectangle(0, 0, 6, 10)) == ()


@given(seed=st.integers(0, 99), size=st.tuples(st.integers(1, 77), st.integers(1, 77)))
@settings(deadline=None, max_examples=60)
def test_boxes_lie_in_the_frame(seed: int, size: tuple[int, int]) -> None:
    classes = (noise(13, 29, seed=seed) > 250).astype(np.uint8)
    frame = Rectangle(size[0] // 3, size[1] // 4, size[0] - size[0] // 3, size[1] // 2 + 1)
    for subject in find_subjects(classes * 255, classes, ("background", "thing"), size, frame):
        x, y, width, height = subject.box
        assert x >= 0
        assert y >= 0
        assert 1 <= width <= frame.width_px - x
        assert 1 <= height <= frame.height_px - y
