"""`make bench-pixels`: medians, ratios and the classic recipe with known answers, and the benchmark in miniature."""

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pixels
import pytest

from benchmark_scripts import run

WAYS = [
    f"{kind}: {way}"
    for kind in ("jpeg", "png", "webp")
    for way in ("decode and encode alone", "gaussian", "guided", "grabcut")
]
STAGES = [
    "probe",
    "decode",
    "preprocess",
    "matte gaussian",
    "matte guided",
    "matte grabcut",
    "matte and blend, guided, with estimation",
    "matte and blend, guided, without",
    "blend on white, gaussian",
    "blend on white, guided",
    "cutout",
    "recipe: matte and blend",
]
ENCODERS = ["encode jpeg", "encode png cutout", "encode webp", "OpenCV's png, colours left in"]


def test_medians_leave_the_first_round_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    now_s = itertools.accumulate([0, 9, 0, 9, 0, 0.003, 0, 0.05, 0, 0.001, 0, 0.07, 0, 0.002, 0, 0.06])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now_s))
    ms = pixels.measure({"fast": lambda: calls.append("fast"), "slow": lambda: calls.append("slow")}, 3)
    assert calls == ["fast", "slow"] * 4
    assert ms == {"fast": pytest.approx(2), "slow": pytest.approx(60)}


def test_ratios() -> None:
    ms = {name: float(number) for number, name in enumerate([*WAYS, *STAGES, *ENCODERS], start=1)}
    found = pixels.ratios(ms)
    assert len(found) == 12
    assert found["jpeg: guided / decode and encode alone"] == 3 / 1
    assert found["webp: grabcut / decode and encode alone"] == 12 / 9
    assert found["recipe / gaussian, matte and blend"] == 24 / (16 + 21)
    assert found["recipe / guided with estimation, matte and blend"] == 24 / 19
    assert found["OpenCV's png / png cutout, encode"] == 28 / 26


def test_the_recipe_by_hand() -> None:
    """OpenCV's 7x7 blur leaves 163 of 255 in the first column of the subject."""
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 10:] = 255
    made = pixels.recipe(np.full((20, 20, 3), 50, np.uint8), mask)
    assert made.shape == (20, 20, 3)
    assert made[5, 0].tolist() == [255] * 3
    assert made[5, 10].tolist() == [int(50 * 163 / 255 + 255 * (1 - 163 / 255))] * 3
    assert made[5, 19].tolist() == [50] * 3


def test_pixels(tmp_path: Path) -> None:
    options = ["--megapixels", "0.05", "--threads", "1", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    done = run("pixels.py", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    (only,) = report["runs"]
    assert (only["megapixels"], only["threads"]) == (0.05, 1)
    assert list(only["ms"]) == [*WAYS, *STAGES, *ENCODERS]
    assert only["ratios"] == pixels.ratios(only["ms"])
    stages = [report["core_ms"][name] for name in ("decode", "preprocess", "matte", "encode")]
    assert min(stages) > 0
    assert report["core_ms"]["all but the network"] >= 0.9 * sum(stages)  # both are medians
