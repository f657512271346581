"""`gaussian` at size MODEL on white equals the reference recipe within one grey level, through server and SDK."""

from collections.abc import Generator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import images
import mattebox
import networks
import reference
from conftest import run_export
from mattebox_server.local import LocalServer
from shells import Shell, open_shell

REFERENCE_LIKE = mattebox.Output(size="model")


def composite(client: Shell, file: bytes, model: str) -> NDArray[np.int64]:
    """BGR (h, w, 3)."""
    result = client.remove_background(file, model=model, matte="gaussian", output=REFERENCE_LIKE)
    assert result.execution.model == model
    return images.decode(result.image)[..., ::-1].astype(np.int64)


def bgr(file: bytes) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


@pytest.mark.parametrize("size", [(96, 64), (64, 64), (61, 200), (500, 333), (30, 40)])
def test_known_classes(client: Shell, size: tuple[int, int]) -> None:
    for photo in (images.scene(*size), images.textured(*size)):
        file = images.encode(photo)
        target = reference.short_side(photo, 64)
        expected, logits = reference.recipe(bgr(file), target, (0, 0, 0), (1, 1, 1), networks.colour_network)
        actual = composite(client, file, "colour")
        assert not reference.undecided(logits).any()
        assert np.abs(actual - expected).max() <= 1


@pytest.fixture(scope="module")
def trained_server(data: Path, folder: Path) -> Generator[LocalServer]:
    core = data / "models" / "deeplabv3_mobilenetv2_257.onnx"
    half = "0.5,0.5,0.5"
    run_export(
        "custom", "--core", core, "--labels", "voc", "--mean", half, "--std", half, "-o", folder / "deeplab257.onnx",
        "--name", "deeplab257",
    )  # fmt: skip
    with LocalServer([folder / "deeplab257.onnx"], ["--provider", "cpu"]) as server:
        yield server


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_trained_network(trained_server: LocalServer, data: Path, kind: str) -> None:
    session = ort.InferenceSession(
        data / "models" / "deeplabv3_mobilenetv2_257.onnx", providers=["CPUExecutionProvider"]
    )
    client = open_shell(kind, trained_server.address)
    for path in sorted((data / "voc" / "images").glob("*.jpg"))[:8]:
        photo = bgr(path.read_bytes())
        expected, logits = reference.recipe(
            photo, (257, 257), (0.5,) * 3, (0.5,) * 3, lambda tensor: session.run(None, {"input": tensor})[0]
        )
        decided = ~reference.undecided(logits)
        assert decided.mean() > 0.9
        assert np.abs(composite(client, path.read_bytes(), "deeplab257") - expected)[decided].max() <= 1
    client.close()


def test_flagship(flagship: Path) -> None:
    torch = pytest.importorskip("torch")
    from mattebox_export.torchvision_core import build_network

    network = build_network("deeplabv3_resnet101", "random", 21)

    def eager(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = network(torch.from_numpy(tensor))["out"].numpy()
        return logits

    photo = images.textured(640, 480)
    file = images.encode(photo)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected, logits = reference.recipe(bgr(file), reference.short_side(photo, 225), mean, std, eager)
    decided = ~reference.undecided(logits)
    assert decided.mean() > 0.5  # a random network is of two minds along every border
    with LocalServer([flagship], ["--provider", "cpu"]) as server, mattebox.Client(server.address) as client:
        actual = composite(client, file, "deeplabv3_resnet101")
        model = client.models().models[0]
        result = client.remove_background(file)
    assert np.abs(actual - expected)[decided].max() <= 1
    assert model.untrained
    assert result.execution.untrained
    assert any("random" in event["event"] and event["level"] == "warning" for event in server.events)
