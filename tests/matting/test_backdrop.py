"""Pictures, colours and blurs behind the subject; and the frame that comes back."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import images
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.rectangle import Rectangle, around_subject, whole
from mattebox_server.matting.backdrop import blurred, continue_subject, cover, plain

SIDES = st.integers(1, 90)
GREEN, RED = (0, 255, 0), (0, 0, 255)  # BGR


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def disc(size: int, radius: float, edge_px: float = 1) -> Pixels:
    """A matte."""
    rows, columns = np.indices((size, size)) + 0.5
    outside = np.hypot(columns - size / 2, rows - size / 2) - radius
    matte: Pixels = np.rint(255 * (0.5 - outside / edge_px).clip(0, 1)).astype(np.uint8)
    return matte


def painted(alpha: Pixels, subject: tuple[int, int, int], background: tuple[int, int, int]) -> Pixels:
    share = alpha[..., np.newaxis] / 255
    photo: Pixels = np.rint(np.array(subject) * share + np.array(background) * (1 - share)).astype(np.uint8)
    return photo


def test_plain() -> None:
    assert plain(3, (1, 2, 250)).tolist() == [[[1, 2, 250]] * 3]
    assert plain(3, (1, 2, 250)).dtype == np.uint8


@given(picture=st.tuples(SIDES, SIDES), frame=st.tuples(SIDES, SIDES))
@settings(deadline=None, max_examples=150)
def test_cover_fills_the_frame(picture: tuple[int, int], frame: tuple[int, int]) -> None:
    covered = cover(np.full((picture[1], picture[0], 3), 90, np.uint8), *frame)
    assert covered.shape == (frame[1], frame[0], 3)
    assert (covered == 90).all()


def test_cover_keeps_the_centre() -> None:
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    assert (cover(stripes, 5, 5) == 255).all()
    assert (cover(np.ascontiguousarray(stripes.transpose(1, 0, 2)), 40, 40) == 255).all()


LARGER_SIDES = st.integers(60, 200)


@given(picture=st.tuples(LARGER_SIDES, LARGER_SIDES), frame=st.tuples(LARGER_SIDES, LARGER_SIDES))
@settings(deadline=None, max_examples=80)
def test_cover_keeps_centre_and_aspect(picture: tuple[int, int], frame: tuple[int, int]) -> None:
    """A round spot in the middle stays there, stays round, and grows as much as the frame asks for."""
    scale = max(frame[0] / picture[0], frame[1] / picture[1])
    spread = min(*picture, min(frame) / scale) / 8
    rows, columns = np.indices((picture[1], picture[0])) + 0.5
    distance = np.hypot(columns - picture[0] / 2, rows - picture[1] / 2)
    spot = np.rint(255 * np.exp(-((distance / spread) ** 2) / 2)).astype(np.uint8)
    covered = cover(np.stack([spot] * 3, axis=-1), *frame)[..., 1].astype(float)
    rows, columns = np.indices(covered.shape) + 0.5
    x, y = (float((covered * where).sum() / covered.sum()) for where in (columns, rows))
    # Cutting and halving go by whole pixels.
    assert abs(x - frame[0] / 2) <= 0.5 + scale
    assert abs(y - frame[1] / 2) <= 0.5 + scale
    wide, high = (
        float(np.sqrt((covered * (where - middle) ** 2).sum() / covered.sum()))
        for where, middle in ((columns, x), (rows, y))
    )
    assert wide == pytest.approx(high, rel=0.06)
    assert wide == pytest.approx(spread * scale, rel=0.1)


def test_cover_doesn_t_alias() -> None:
    lines = np.zeros((600, 600, 3), np.uint8)
    lines[::3] = 240
    assert np.abs(cover(lines, 100, 100) - 80.0).max() <= 25


@pytest.mark.parametrize("sigma_px", [1.5, 3, 6, 12, 20, 60])
@pytest.mark.parametrize("size", [(400, 300), (1001, 777), (8, 300), (300, 8), (1, 400), (400, 1), (1, 1)])
def test_without_a_subject_it_is_a_gaussian(size: tuple[int, int], sigma_px: float) -> None:
    width, height = size
    photo = np.ascontiguousarray(images.textured(width, height))
    before = photo.copy()
    found = blurred(photo, np.zeros((height, width), np.uint8), sigma_px)
    assert found.shape == (height, width, 3)
    assert found.dtype == np.uint8
    assert (photo == before).all()
    exact: Any = cv2.GaussianBlur(photo.astype(np.float64), (0, 0), sigma_px)
    error: NDArray[np.float64] = np.abs(found - exact.reshape(height, width, 3))
    assert error.mean() <= (2.5 if min(size) > 300 else 1)
    margin = round(2 * sigma_px)  # what lies beyond the frame is mirrored at the small photo's outermost pixels
    inner = error[margin : height - margin, margin : width - margin]
    assert inner.max(initial=0) <= (15 if min(size) > 300 else 4)
    assert error.max() <= (25 if min(size) > 100 else 4)


@pytest.mark.parametrize("edge_px", [1, 6])
@pytest.mark.parametrize("sigma_px", [1.5, 3, 12, 60, 200])
@pytest.mark.parametrize("size", [200, 601])
def test_the_subject_doesn_t_glow(size: int, sigma_px: float, edge_px: float) -> None:
    alpha = disc(size, size / 4, edge_px)
    photo = painted(alpha, RED, GREEN)
    behind = blurred(photo.copy(), alpha, sigma_px)
    assert (np.abs(behind - np.array(GREEN)).max(axis=-1) <= 12).all()  # in the subject's place too


def test_what_is_behind_the_subject_continues_what_is_around_it() -> None:
    """A background that is dark on the left and light on the right stays so across the subject."""
    photo = np.repeat(np.linspace(40, 200, 400).astype(np.uint8)[np.newaxis], 300, axis=0)
    photo = np.stack([photo] * 3, axis=-1)
    alpha = np.zeros((300, 400), np.uint8)
    alpha[100:200, 150:250] = 255
    truth = photo.astype(int)
    photo[alpha == 255] = RED
    assert np.abs(blurred(photo, alpha, 5) - truth).max() <= 25
    small = np.full((300, 400, 3), 90, np.uint8)
    small[150:152, 200:202] = RED
    speck = np.where(small[..., :1] == 0, 255, 0).astype(np.uint8)[..., 0]
    assert (blurred(small, speck, 3) == 90).all()


@pytest.mark.parametrize("sigma_px", [1.5, 12, 200])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (130, 130), (400, 3)])
def test_blurs_of_any_shape(size: tuple[int, int], sigma_px: float) -> None:
    photo = np.full((size[1], size[0], 3), (9, 99, 199), np.uint8)
    for alpha in (0, 1, 255):
        behind = blurred(photo, np.full(photo.shape[:2], alpha, np.uint8), sigma_px)
        assert behind.shape == photo.shape
        if alpha == 0:
            assert (behind == photo).all()
    alpha_of_half = np.zeros(photo.shape[:2], np.uint8)
    alpha_of_half[size[1] // 2 :, size[0] // 2 :] = 255
    assert blurred(photo, alpha_of_half, sigma_px).shape == photo.shape


@pytest.mark.parametrize(("sigma_px", "off"), [(3, 20), (12, 20)])
def test_a_narrow_background_is_seen_too(sigma_px: float, off: int) -> None:
    alpha = np.full((500, 500), 255, np.uint8)
    alpha[:, :6] = 0
    behind = blurred(painted(alpha, RED, GREEN), alpha, sigma_px)
    assert (np.abs(behind - np.array(GREEN)).max(axis=-1) <= off)[alpha == 0].all()


def two_discs(size: int) -> tuple[Pixels, Pixels]:
    alpha = np.zeros((size, size), np.uint8)
    alpha[size // 3 : size // 2, size // 8 : size // 3] = 255
    alpha[size // 3 : size // 2, size * 2 // 3 : size * 7 // 8] = 120
    photo = noise(size, size, 3)
    photo[:, : size // 2][alpha[:, : size // 2] > 0] = (200, 30, 30)
    photo[:, size // 2 :][alpha[:, size // 2 :] > 0] = (30, 30, 200)
    return photo, alpha


@pytest.mark.parametrize("size", [40, 256, 257, 700])
def test_continued_colors_are_the_subject_s(size: int) -> None:
    photo, alpha = two_discs(size)
    continued = photo.copy()
    continue_subject(continued, alpha)
    assert (continued[alpha > 0] == photo[alpha > 0]).all()
    # No removed pixel counts.
    another = photo.copy()
    another[alpha == 0] = 255 - another[alpha == 0]
    continue_subject(another, alpha)
    assert another.tobytes() == continued.tobytes()
    # Nothing but mixtures of the two, and near either no more than a little of the other.
    colors = continued.astype(int)
    assert np.abs(colors[..., 0] + colors[..., 2] - 230).max() <= 3
    assert np.abs(colors[..., 1] - 30).max() <= 2
    assert np.abs(colors[size // 3 : size // 2, : size // 8] - (200, 30, 30)).max() <= 60
    assert np.abs(colors[size // 3 : size // 2, size * 7 // 8 + 1 :] - (30, 30, 200)).max() <= 60


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (30, 20), (500, 300)])
def test_continued_colors_of_a_flat_subject(size: tuple[int, int]) -> None:
    photo, alpha = noise(size[1], size[0], 3), np.zeros((size[1], size[0]), np.uint8)
    nothing = photo.copy()
    continue_subject(nothing, alpha)
    assert not nothing.any()
    alpha[size[1] // 2 :, size[0] // 2 :] = 255
    photo[alpha == 255] = (17, 140, 230)
    continue_subject(photo, alpha)
    assert np.abs(photo.astype(int) - (17, 140, 230)).max() <= 2
    opaque = noise(size[1], size[0], 3)
    continue_subject(opaque, np.full((size[1], size[0]), 255, np.uint8))
    assert (opaque == noise(size[1], size[0], 3)).all()


def matte_with(x: int, y: int, width: int, height: int, value: int = 255) -> Pixels:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[y : y + height, x : x + width] = value
    return alpha


def test_a_frame_around_the_subject() -> None:
    assert around_subject(matte_with(20, 10, 5, 7), 0) == Rectangle(20, 10, 5, 7)
    assert around_subject(matte_with(20, 10, 5, 7), 3) == Rectangle(17, 7, 11, 13)
    assert around_subject(matte_with(2, 1, 5, 7), 3) == Rectangle(0, 0, 10, 11)
    assert around_subject(matte_with(50, 35, 10, 5), 3) == Rectangle(47, 32, 13, 8)
    assert around_subject(matte_with(0, 39, 1, 1), 0) == Rectangle(0, 39, 1, 1)
    assert around_subject(matte_with(20, 10, 5, 7), 100_000) == Rectangle(0, 0, 60, 40)
    two = np.maximum(matte_with(3, 4, 2, 2), matte_with(30, 20, 5, 5))
    assert around_subject(two, 0) == Rectangle(3, 4, 32, 21)
    assert around_subject(np.full((40, 60), 255, np.uint8), 0) == Rectangle(0, 0, 60, 40)


def test_what_is_faint_widens_no_frame() -> None:
    alpha = np.maximum(matte_with(0, 0, 60, 40, 12), matte_with(20, 10, 5, 7, 13))
    assert around_subject(alpha, 0) == Rectangle(20, 10, 5, 7)
    for value in (0, 12):
        assert around_subject(matte_with(1, 2, 3, 4, value), 5) == Rectangle(0, 0, 60, 40)


@given(
    box=st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20)),
    frame=st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(1, 10), st.integers(1, 10)),
)
def test_a_frame_is_a_view_and_clips_boxes(box: tuple[int, int, int, int], frame: tuple[int, int, int, int]) -> None:
    alpha, cut = matte_with(*box), Rectangle(*frame)
    assert whole(alpha).crop(alpha).shape == (40, 60)
    view = cut.crop(alpha)
    assert view.shape == (cut.height_px, cut.width_px)
    assert np.shares_memory(view, alpha)
    inside = np.argwhere(view)
    clipped = cut.clip(*box)
    if clipped is None:
        assert not inside.size
    else:
        x, y, width, height = clipped
        top, left = inside.min(axis=0)
        bottom, right = inside.max(axis=0) + 1
        assert (x, y, x + width) == (left, top, right)
        assert min(y + height, 40) == bottom
