"""The benchmarks run: in miniature, and without a word about speed."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

ROOT = Path(__file__).parents[1]


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
