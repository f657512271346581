"""Composites and cutouts: the formula in float64, views into larger arrays, and what must not leak."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.rectangle import Rectangle
from mattebox_server.matting import blend
from mattebox_server.matting.backdrop import plain
from mattebox_server.matting.matte import make_matte
from mattebox_server.request import MatteMethod, MatteOptions

SHAPES = st.tuples(st.integers(1, 600), st.integers(1, 9)) | st.tuples(st.integers(1, 9), st.integers(1, 600))
SEEDS = st.integers(0, 50)
FRAMES = [
    Rectangle(*sides) for sides in ((10, 20, 200, 150), (0, 0, 300, 1), (0, 0, 1, 200), (299, 0, 1, 200), (7, 9, 1, 1))
]
COLOR = (10, 200, 77)


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def matte(*shape: int, seed: int = 0) -> Pixels:
    """A quarter of the pixels clear, a fifth opaque."""
    alpha = noise(*shape, seed=seed)
    alpha[alpha < 60], alpha[alpha > 200] = 0, 255
    return alpha


def mixture(photo: Pixels, alpha: Pixels, background: Any) -> NDArray[np.float64]:
    weight = alpha[..., np.newaxis] / 255
    mixed: NDArray[np.float64] = np.rint(photo * weight + background * (1 - weight))
    return mixed


@given(shape=SHAPES, seed=SEEDS)
@settings(deadline=None, max_examples=60)
def test_a_composite_equals_the_formula(shape: tuple[int, int], seed: int) -> None:
    photo, picture, alpha = noise(*shape, 3, seed=seed), noise(*shape, 3, seed=seed + 1), matte(*shape, seed=seed + 2)
    copies = alpha.copy(), picture.copy()
    for background in (picture, plain(shape[1], COLOR), picture[:1]):
        result = photo.copy()
        blend.composite(result, alpha, background)
        error = np.abs(result - mixture(photo, alpha, background))
        assert error.max() <= 1
        assert error.mean() < 0.05
        assert (result[alpha == 255] == photo[alpha == 255]).all()
        assert (result[alpha == 0] == np.broadcast_to(background, photo.shape)[alpha == 0]).all()
    assert (alpha == copies[0]).all()
    assert (picture == copies[1]).all()


def test_every_alpha_rounds_to_the_nearest() -> None:
    alpha, photo = np.indices((256, 256)).astype(np.uint8)
    for background in (0, 100, 255):
        result = np.stack([photo] * 3, axis=-1)
        blend.composite(result, alpha, plain(256, (background, background, background)))
        exact = photo * (alpha / 255) + background * (1 - alpha / 255)
        assert np.abs(result[..., 1] - exact).max() < 0.5001


@pytest.mark.parametrize("frame", FRAMES)
def test_views_into_larger_arrays(frame: Rectangle) -> None:
    photo, picture, alpha = noise(200, 300, 3), noise(200, 300, 3, seed=1), matte(200, 300)
    whole = photo.copy()
    blend.composite(frame.crop(whole), frame.crop(alpha), frame.crop(picture))
    inside = np.zeros((200, 300), bool)
    inside[frame.y_px : frame.y_px + frame.height_px, frame.x_px : frame.x_px + frame.width_px] = True
    assert np.abs(whole - mixture(photo, alpha, picture))[inside].max() <= 1
    assert (whole[~inside] == photo[~inside]).all()
    whole = photo.copy()
    cutout = blend.cutout(frame.crop(whole), frame.crop(alpha))
    visible = frame.crop(alpha) > 0
    assert (cutout[..., 3] == frame.crop(alpha)).all()
    assert (cutout[visible][:, :3] == frame.crop(photo)[visible]).all()
    assert not cutout[~visible].any()
    assert (whole[~inside] == photo[~inside]).all()


@given(shape=SHAPES, seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_cutout(shape: tuple[int, int], seed: int) -> None:
    photo, alpha = noise(*shape, 3, seed=seed), matte(*shape, seed=seed + 1)
    result = blend.cutout(photo.copy(), alpha)
    assert result.shape == (*shape, 4)
    assert (result[..., 3] == alpha).all()
    assert (result[alpha > 0][:, :3] == photo[alpha > 0]).all()
    assert not result[alpha == 0].any()


@given(shape=SHAPES, seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_fill_clear(shape: tuple[int, int], seed: int) -> None:
    photo, picture, alpha = noise(*shape, 3, seed=seed), noise(*shape, 3, seed=seed + 1), matte(*shape, seed=seed + 2)
    for background in (picture, picture[:1]):
        filled = photo.copy()
        blend.fill_clear(filled, alpha, background)
        expected = np.where((alpha == 0)[..., np.newaxis], background, photo)
        assert (filled == expected).all()


@pytest.mark.parametrize("method", [MatteMethod.NONE, MatteMethod.GAUSSIAN])
@pytest.mark.parametrize("size", [(60, 40), (300, 200)])
def test_no_removed_pixel_survives(method: MatteMethod, size: tuple[int, int]) -> None:
    """Two photos that differ in nothing but removed pixels, all of them unlike: no byte of the answers differs."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:40] = 255
    one = noise(size[1], size[0], 3)
    alpha = make_matte(one, mask, mask, MatteOptions(method)).alpha
    assert 0.2 < (alpha == 0).mean() < 0.9
    another = np.where((alpha == 0)[..., np.newaxis], 255 - one, one).astype(np.uint8)
    assert (make_matte(another, mask, mask, MatteOptions(method)).alpha == alpha).all()
    cutouts = [blend.cutout(photo.copy(), alpha) for photo in (one, another)]
    assert cutouts[0].tobytes() == cutouts[1].tobytes()
    assert not cutouts[0][alpha == 0].any()
    for background in (plain(size[0], COLOR), noise(size[1], size[0], 3, seed=9)):
        photos = one.copy(), another.copy()
        for photo in photos:
            blend.composite(photo, alpha, background)
        assert photos[0].tobytes() == photos[1].tobytes()


@pytest.mark.parametrize("method", [MatteMethod.GUIDED, MatteMethod.GRABCUT])
def test_nothing_hides_behind_alpha_0(method: MatteMethod) -> None:
    """Also where colours are restored, in strips that hold clear pixels too."""
    photo = noise(200, 300, 3)
    photo[60:140, 100:200] = np.minimum(photo[60:140, 100:200] // 4 + np.array((0, 0, 190)), 255)
    probability = np.zeros((200, 300), np.uint8)
    probability[62:142, 98:198] = 240
    made = make_matte(photo, probability, probability, MatteOptions(method))
    assert ((made.alpha > 0) & (made.alpha < 255)).any()
    cutout = blend.cutout(photo.copy(), made.alpha, made.restorer)
    assert (cutout[..., 3] == made.alpha).all()
    assert not cutout[made.alpha == 0].any()
    composite = photo.copy()
    blend.composite(composite, made.alpha, plain(300, COLOR), made.restorer)
    assert (composite[made.alpha == 0] == COLOR).all()
