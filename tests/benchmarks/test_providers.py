"""`make bench-engine` and `make gpu-check` in miniature."""

import json
from pathlib import Path
from typing import get_args

import onnxruntime as ort
import pytest
from gpu_check import COMBINATIONS
from serving import measure_serving

from benchmark_scripts import run
from mattebox_server.spec import Precision


def test_every_way_has_its_rounds_or_a_reason(tmp_path: Path) -> None:
    options = ["--models", "u2netp", "--rounds", "2", "--no-server", "--cache", str(tmp_path)]
    done = run("providers.py", *options, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    (network,) = report["networks"]
    assert (network["network"], network["height_px"], network["width_px"]) == ("u2netp", 320, 320)
    ways = {way["name"]: (len(way["seconds"]), way["reason"]) for way in network["ways"]}
    assert {name for name, found in ways.items() if found == (2, "")} >= {
        "onnxruntime CPU fp32, plain graph",
        "Mattebox cpu fp32",
    }
    assert all((rounds == 2) != bool(reason) for rounds, reason in ways.values())
    assert report["machine"]["versions"]["onnxruntime"] == ort.__version__


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_gpu_check_says_what_is_missing() -> None:
    done = run("gpu_check.py")
    assert done.returncode == 1
    assert "NVIDIA" in done.stdout


def test_gpu_check_runs_artifacts_of_every_precision() -> None:
    assert set(get_args(Precision)) <= {how.artifact for how in COMBINATIONS}


def test_the_server_is_compared_with_its_pipeline(brightness_model: Path) -> None:
    assert set(measure_serving(brightness_model, 1, 1)) == {
        "latency_server_to_in_process",
        "throughput_server_to_in_process",
    }
