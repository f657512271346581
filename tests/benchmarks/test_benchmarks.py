"""The benchmarks run: in miniature, and without a word about speed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_engine(tmp_path: Path) -> None:
    options = ["--models", "u2netp", "--rounds", "2", "--no-server", "--cache", str(tmp_path)]
    done = run("engine.py", *options, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    ways = {way["name"]: way for way in report["networks"][0]["ways"]}
    assert len(ways["onnxruntime CPU fp32, plain graph"]["seconds"]) == 2
    assert len(ways["Mattebox cpu fp32"]["seconds"]) == 2
    assert all(way["seconds"] or way["reason"] for way in ways.values())
    assert report["machine"]["versions"]["onnxruntime"] == ort.__version__


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_gpu_check_says_what_is_missing() -> None:
    done = run("gpu_check.py")
    assert done.returncode == 1
    assert "NVIDIA" in done.stdout


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A folder as `make bench-quality` wants it: one photo of each kind, a bright disc on dark."""
    rows, columns = np.indices((90, 120))
    soft = np.clip(25 - np.hypot(rows - 45, columns - 60), 0, 1)
    photo = (40 + 180 * soft[..., np.newaxis] + np.zeros(3)).astype(np.uint8)
    files = {
        "voc/images/disc.jpg": Image.fromarray(photo),
        "voc/masks/disc.png": Image.fromarray((soft > 0.5).astype(np.uint8)),
        "alpha/images/disc.png": Image.fromarray(photo),
        "alpha/alphas/disc.png": Image.fromarray((255 * soft).round().astype(np.uint8)),
        "alpha/trimaps/disc.png": Image.fromarray(np.where((soft > 0) & (soft < 1), 128, 255 * soft).astype(np.uint8)),
    }
    for name, image in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    return tmp_path


def test_quality(material: Path, brightness_model: Path) -> None:
    out = material / "out"
    done = run("quality.py", "--data", str(material), "--models", str(brightness_model), "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "quality.json").read_text())
    assert {row["method"] for row in report["rows"]} == {"none", "gaussian", "guided", "grabcut"}
    assert {row["map"] for row in report["rows"]} == {"brightness", "coarse map of the truth"}
    assert all(row["iou"] > 0.9 for row in report["rows"] if row["photos"] == "masks")
    assert all(0 < row["mad"] < 500 for row in report["rows"] if row["photos"] == "mattes")
    assert report["colors"]["ratio"] < 1
    assert (out / "quality-brightness.png").exists()


def test_quality_of_nothing(tmp_path: Path) -> None:
    done = run("quality.py", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "no photos" in done.stderr


def test_pixels(tmp_path: Path) -> None:
    options = ["--megapixels", "0.05", "--threads", "1", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    done = run("pixels.py", *options)
    assert done.returncode == 0, done.stderr
    (only,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert all(value > 0 for value in only["ms"].values())
    assert "jpeg: guided / decode and encode alone" in only["ratios"]


def test_errors_of_mattes() -> None:
    """Worked out by hand."""
    matting: Any = importlib.import_module("matting")
    everywhere = np.ones((40, 40), bool)
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 255
    same = matting.alpha_errors(truth, truth, everywhere)
    assert (same.sad, same.mad, same.mse, same.grad, same.conn) == (0, 0, 0, 0, 0)
    off = truth.copy()
    off[:, 10:20] = 51  # a fifth
    errors = matting.alpha_errors(off, truth, everywhere)
    assert errors.sad == pytest.approx(400 * 0.2 / 1000)
    assert errors.mad == pytest.approx(0.25 * 0.2 * 1000)
    assert errors.mse == pytest.approx(0.25 * 0.04 * 1000)
    assert errors.grad > 0
    in_band = matting.alpha_errors(off, truth, off == 51)
    assert (in_band.mad, in_band.sad) == (pytest.approx(200), pytest.approx(errors.sad))
    island = truth.copy()
    island[5:8, 3:6] = 255  # wrong and apart from the subject
    assert matting.alpha_errors(island, truth, everywhere).conn == pytest.approx(9 / 1000)


def test_scores_of_masks() -> None:
    matting: Any = importlib.import_module("matting")
    truth = np.zeros((60, 60), bool)
    truth[:, 30:] = True
    known = np.ones_like(truth)
    known[:, 40:] = False
    matte = np.where(np.arange(60) >= 28, 255, 0)[np.newaxis].repeat(60, 0).astype(np.uint8)
    scores = matting.mask_scores(matte, truth, known)
    assert scores.iou == pytest.approx(10 / 12)
    assert scores.band_iou == pytest.approx(8 / 10)
    assert scores.band_accuracy == pytest.approx(14 / 16)
    assert matting.mask_scores(np.where(truth, 255, 0).astype(np.uint8), truth, known).iou == 1


@pytest.mark.parametrize("scenario", ["deadlines", "fuzz", "soak"])
def test_faults(scenario: str, colour_model: Path, tmp_path: Path) -> None:
    """Each scenario runs to its end and says what it measured; whether the goals are met is for quiet machines."""
    short = ["--seconds", "2", "--soak-minutes", "0.1", "--model", str(colour_model)]
    done = run("faults.py", "--only", scenario, *short, "--json", str(tmp_path / "out.json"))
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["scenarios"][scenario]
    assert len(rows) >= 3
    assert any(met is not None for *_, met in rows)
