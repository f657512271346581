"""Windows: the same means in float64, pixel by pixel."""

import numpy as np
import pytest

from mattebox_server.matting.windows import Windows
from plain_windows import PlainWindows


@pytest.mark.parametrize("radius_px", [0.2, 1, 2.4, 2.9, 3, 3.6, 5.8, 11.7, 40])
@pytest.mark.parametrize("planes", [(), (3,)])
def test_means_and_their_mean(radius_px: float, planes: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random((60, 84, *planes)).astype(np.float32)
    windows, plain = Windows.over(84, 60, radius_px / 60), PlainWindows(radius_px)
    means = windows.means(image)
    assert means.dtype == np.float32
    expected = plain.means(image.astype(np.float64))
    np.testing.assert_allclose(means, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(windows.enlarge(means), plain.enlarged(expected), rtol=0, atol=1e-5)
    np.testing.assert_allclose(windows.enlarge(windows.smooth(means)), plain.spread(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(61, 84), (60, 83), (7, 201), (1, 60), (60, 1), (1, 1)])
@pytest.mark.parametrize("radius_px", [1, 3, 3.6, 6, 30])
def test_nothing_moves_by_more_than_half_a_pixel(size: tuple[int, int], radius_px: float) -> None:
    """The mean of a ramp in a window, and the mean of all windows that hold a pixel, is the ramp but at its ends."""
    height, width = size
    ramp = np.arange(width, dtype=np.float32)[np.newaxis] + 2 * np.arange(height, dtype=np.float32)[:, np.newaxis]
    windows = Windows.over(width, height, radius_px / min(size))
    found = windows.enlarge(windows.smooth(windows.means(ramp)))
    assert found.shape == size
    reach = 2 * round(radius_px) + 4
    inner = slice(reach, max(reach, height - reach)), slice(reach, max(reach, width - reach))
    assert np.abs(found - ramp)[inner].max(initial=0) <= 0.75
    assert found.min() >= 0
    assert found.max() <= ramp.max()


def test_all_pixels_count_in_wide_windows() -> None:
    image = np.zeros((40, 40), np.float32)
    for column in range(16, 24):
        image[:] = 0
        image[:, column] = 1
        means = Windows.over(40, 40, 4 / 40).means(image)
        np.testing.assert_allclose(means.sum(), 40 * 40 / 4 / 40, rtol=1e-5)
