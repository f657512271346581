"""The networks of MediaPipe that are imported, against MediaPipe's own interpreter.

MediaPipe wants an older NumPy and protobuf than this project has. It also asks for OpenCV, JAX and matplotlib, which
its interpreter does without. So three packages go into a folder of their own in the user's cache, once (55 MB of
downloads), and a Python that sees only this folder runs the interpreter.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mattebox_export.catalogue import Normalisation
from mattebox_export.errors import ExportError
from mattebox_export.normal_form import prepare
from mattebox_export.parity import check_parity, normalise
from mattebox_export.tflite.importer import import_tflite, tflite_core
from mattebox_export.wrap import wrap
from mattebox_server.engine.selfcheck import synthetic_photo
from mattebox_server.spec import ModelSpec, Stretch, Weights

PACKAGES = ("mediapipe==0.10.21", "numpy==1.26.4", "protobuf==4.25.8")
SCRIPT = Path(__file__).parents[1] / "mediapipe_graph.py"
RAW = Normalisation((0, 0, 0), (1, 1, 1))  # values in [0, 1]
NETWORKS = {
    "selfie_segmentation": ("9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c", (256, 256)),
    "selfie_segmentation_landscape": ("a77d03f4659b9f6b6c1f5106947bf40e99d7655094b6527f214ea7d451106edd", (144, 256)),
}

Interpreter = Callable[[Path, NDArray[np.uint8]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def mediapipe() -> Path:
    """A folder with MediaPipe, which is made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mattebox-tests"
    folder = cache / f"mediapipe-0.10.21-py{sys.version_info.major}{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = folder.with_suffix(f".{os.getpid()}.part")
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--target"]
            done = subprocess.run([*pip, str(unfinished), *PACKAGES], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"MediaPipe can't be installed here: {done.stderr.strip().splitlines()[-1]}")
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="module")
def interpreter(mediapipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    """Runs a network by MediaPipe: photos uint8 (N, H, W, 3) RGB become float32 (N, values)."""
    folder = tmp_path_factory.mktemp("mediapipe")

    def run(model: Path, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        given, answers = folder / "photos.npy", folder / "answers.npy"
        np.save(given, photos)
        command = [sys.executable, "-S", *map(str, (SCRIPT, mediapipe, model, given, answers))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.defpath})
        assert done.returncode == 0, done.stderr
        return np.asarray(np.load(answers), np.float32)

    return run


def network(mediapipe: Path, name: str) -> Path:
    path = mediapipe / "mediapipe" / "modules" / "selfie_segmentation" / f"{name}.tflite"
    assert sha256(path.read_bytes()).hexdigest() == NETWORKS[name][0]
    return path


def photos_of(height: int, width: int) -> NDArray[np.uint8]:
    """Photos of scikit-image, where it is installed, and made ones, uint8 (N, H, W, 3) RGB."""
    photos = [synthetic_photo(height, width, seed)[..., ::-1] for seed in range(2)]
    skimage = pytest.importorskip("skimage.data")
    for photo in (skimage.astronaut(), skimage.chelsea(), skimage.coffee()):
        photos.append(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(np.stack(photos))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_answers_are_mediapipes_own(name: str, mediapipe: Path, interpreter: Interpreter) -> None:
    height, width = NETWORKS[name][1]
    path, photos = network(mediapipe, name), photos_of(height, width)
    expected = interpreter(path, photos).reshape(len(photos), height, width)
    model = import_tflite(path.read_bytes())
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: normalise(photos[..., ::-1], RAW)}
    found = np.asarray(session.run(None, feeds)[0], np.float32)[:, 0]
    apart = np.abs(found - expected) * 255
    assert apart.mean(axis=(1, 2)).max() < 0.01  # grey levels; measured 0.0002
    assert apart.max() < 0.5  # measured 0.04
    astronaut = expected[2]  # she stands left of the middle: hair at the top, the flag and the shuttle beside her
    assert astronaut[height // 4, width * 7 // 16] > 0.95
    assert astronaut[: height // 4, width * 3 // 4 :].max() < 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_the_artifact_passes_the_parity_check(name: str, mediapipe: Path) -> None:
    height, width = NETWORKS[name][1]
    core = tflite_core(network(mediapipe, name).read_bytes(), RAW, "none")
    core = replace(core, model=prepare(core.model))
    assert "Transpose" not in {node.op_type for node in core.model.graph.node}
    spec = ModelSpec(
        name="selfie",
        kind="saliency",
        labels=("subject",),
        resize=Stretch(width_px=width, height_px=height),
        precision="fp32",
        target="cpu",
        weights=Weights(source="mediapipe", sha256=core.weights_sha256, trained=True),
        licence="Apache-2.0",
        tools={},
    )
    parity = check_parity(wrap(core, spec), core, spec)
    assert parity.holds
    assert parity.batch == 2


@settings(max_examples=50, deadline=None)
@given(damages=st.lists(st.tuples(st.integers(8, 249_000), st.integers(0, 255)), min_size=1, max_size=200))
def test_a_damaged_network_is_refused_or_imported(damages: list[tuple[int, int]], mediapipe: Path) -> None:
    data = bytearray(network(mediapipe, "selfie_segmentation").read_bytes())
    for place, value in damages:
        data[place] = value
    try:
        model = import_tflite(bytes(data))
    except ExportError:
        return
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
