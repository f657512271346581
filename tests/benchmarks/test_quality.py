"""`make bench-quality`: errors and scores with known answers, and the whole benchmark on photos worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import matte_errors
import numpy as np
import pytest
from PIL import Image
from quality import Case, color_errors

from benchmark_scripts import run

SIDE = 80
EDGE = 40  # the first column of the subject; its alpha is a half, that of all further columns is 1
HALF = 128 / 255
# OpenCV's 7x7 blur of a straight edge: what is left of 1 one, two and three pixels outside of it.
BLURRED = (0.359375, 0.140625, 0.03125)


def step(height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A matte uint8 (40, 40) that rises from 0 to `height` in its middle."""
    matte = np.zeros((40, 40), np.uint8)
    matte[:, 20:] = height
    return matte


def test_a_matte_without_errors() -> None:
    truth, everywhere = step(255), np.ones((40, 40), bool)
    errors = matte_errors.alpha_errors(truth, truth, everywhere)
    assert (errors.sad, errors.mad, errors.mse, errors.grad, errors.conn) == (0, 0, 0, 0, 0)


def test_errors_of_a_matte_by_hand() -> None:
    truth, everywhere = step(255), np.ones((40, 40), bool)
    off = truth.copy()
    off[:, 10:20] = 51  # a fifth
    errors = matte_errors.alpha_errors(off, truth, everywhere)
    assert errors.sad == pytest.approx(400 * 0.2 / 1000)
    assert errors.mad == pytest.approx(0.25 * 0.2 * 1000)
    assert errors.mse == pytest.approx(0.25 * 0.04 * 1000)
    in_band = matte_errors.alpha_errors(off, truth, off == 51)
    assert in_band.mad == pytest.approx(200)
    assert in_band.sad == pytest.approx(errors.sad)
    island = truth.copy()
    island[5:8, 3:6] = 255  # wrong and apart from the subject
    assert matte_errors.alpha_errors(island, truth, everywhere).conn == pytest.approx(9 / 1000)


@pytest.mark.parametrize("height", [51, 255])
def test_the_gradient_error_of_a_step_is_the_integral_of_a_gaussian(height: int) -> None:
    """The unit-norm derivative of a Gaussian of s = 1.4 px (Rhemann et al.) answers a step of height h at distance d by
    2 s h exp(-d² / 2s²), whose square, summed over a row, is 4 s³ sqrt(pi) h²."""
    nothing, everywhere = np.zeros((40, 40), np.uint8), np.ones((40, 40), bool)
    a_row = 4 * 1.4**3 * math.sqrt(math.pi) * (height / 255) ** 2
    errors = matte_errors.alpha_errors(step(height), nothing, everywhere)
    assert errors.grad == pytest.approx(40 * a_row / 1000, rel=0.01)  # the kernel ends at 4 px


def test_scores_of_masks_by_hand() -> None:
    truth = np.zeros((60, 60), bool)
    truth[:, 30:] = True
    known = np.ones_like(truth)
    known[:, 40:] = False
    matte = np.where(np.arange(60) >= 28, 255, 0)[np.newaxis].repeat(60, 0).astype(np.uint8)
    scores = matte_errors.mask_scores(matte, truth, known)
    assert scores.iou == pytest.approx(10 / 12)
    assert scores.band_iou == pytest.approx(8 / 10)
    assert scores.band_accuracy == pytest.approx(14 / 16)
    assert matte_errors.mask_scores(np.where(truth, 255, 0).astype(np.uint8), truth, known).iou == 1


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A folder as `make bench-quality` wants it: a bright half-plane on dark, of the size that the network takes."""
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[:, EDGE] = 128
    alpha[:, EDGE + 1 :] = 255
    photo = np.repeat((40 + 180.0 * alpha / 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    files = {
        "voc/images/half.jpg": Image.fromarray(np.where(photo > 127, 220, 40).astype(np.uint8)),
        "voc/masks/half.png": Image.fromarray((alpha > 127).astype(np.uint8)),
        "alpha/images/half.png": Image.fromarray(photo),
        "alpha/alphas/half.png": Image.fromarray(alpha),
        "alpha/trimaps/half.png": Image.fromarray(alpha),
    }
    for name, image in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    return tmp_path


def test_quality(material: Path, brightness_model: Path) -> None:
    """The network's answer is the photo's brightness: its mask is the true one, with the half-covered column in it."""
    out = material / "out"
    done = run("quality.py", "--data", str(material), "--models", str(brightness_model), "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "quality.json").read_text())
    assert report["photos"] == [1, 1]
    rows = {(row["photos"], row["map"], row["method"]): row for row in report["rows"]}
    methods = ("map", "none", "gaussian", "guided", "grabcut")
    simulated = "coarse map of the truth"
    assert set(rows) == {
        *(("masks", "brightness", method) for method in methods),
        *(("mattes", name, method) for name in ("brightness", simulated) for method in methods),
    }
    for method in methods:
        row = rows["masks", "brightness", method]
        assert (row["iou"], row["band_iou"], row["band_accuracy"]) == (1, 1, 1), method
    for name in ("brightness", simulated):
        row = rows["mattes", name, "none"]
        assert row["mad"] == pytest.approx(1000 * (1 - HALF))
        assert row["whole_sad"] == pytest.approx(SIDE * (1 - HALF) / 1000)
    assert rows["mattes", "brightness", "map"]["mad"] == pytest.approx(
        1000 * (int(40 + 180 * HALF) / 255 - HALF), abs=2
    )
    gaussian = rows["mattes", "brightness", "gaussian"]
    one, two, three = BLURRED
    assert gaussian["mad"] == pytest.approx(1000 * (1 - one - HALF), abs=2)  # a grey level is 4
    assert gaussian["whole_sad"] == pytest.approx(SIDE * (one + 2 * two + 2 * three + 1 - one - HALF) / 1000, rel=0.02)
    assert (out / "quality-brightness.png").exists()


def test_estimated_colours_are_the_subjects() -> None:
    """The edge is half subject (220) and half old background (40), and its alpha weighs the error by a half again."""
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[:, EDGE] = 128
    alpha[:, EDGE + 1 :] = 255
    bright, dark = (np.full((SIDE, SIDE, 3), level, np.uint8) for level in (220, 40))
    subject = Case("subject", bright, alpha, alpha != 128)
    colors = color_errors([subject], [Case("background", dark, alpha, alpha != 128)])
    assert colors["kept"] == pytest.approx((220 - 40) * (1 - HALF) * HALF, rel=0.02)
    assert colors["estimated"] < 2.5  # the grain that the benchmark adds is 4 levels in the mean, and counts by half
    assert colors["ratio"] == colors["estimated"] / colors["kept"]


def test_quality_of_nothing(tmp_path: Path) -> None:
    done = run("quality.py", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "no photos" in done.stderr
