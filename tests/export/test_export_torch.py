"""Exports of torchvision's networks, the only ones that need torch."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import images
from conftest import run_export
from mattebox_export.catalogue import CATALOGUE, VOC_LABELS
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.wrap import CORE_OUTPUT, with_core_output
from mattebox_server.spec import ModelSpec, ShortSide

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torchvision.models import segmentation  # noqa: E402

from mattebox_export import race, torchvision_core  # noqa: E402
from mattebox_export.torchvision_core import torchvision_core as build_core  # noqa: E402

SMALL = "deeplabv3_mobilenet_v3_large"
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def eager(network: Any, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    """torchvision's own logits of RGB photos (N, H, W, 3)."""
    tensor = torch.from_numpy(((photos / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        logits: NDArray[np.float32] = network(tensor)["out"].numpy()
    return logits


def test_flagship_against_torchvision_in_eager_mode(flagship: Path) -> None:
    """Logits are equal within 1e-4 at several sizes and batches, also with maps smaller than the atrous rates."""
    with with_core_output(onnx.load_model_from_string(flagship.read_bytes())) as model:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    network = torchvision_core.build_network("deeplabv3_resnet101", "random", 21)
    for width, height, batch in ((301, 225, 3), (193, 257, 1), (450, 80, 1), (40, 300, 1)):
        photos = np.stack([images.textured(width, height, seed) for seed in range(batch)])
        expected = eager(network, photos)
        keep = np.tile(np.array([0.0] + [1.0] * 20, np.float32), (batch, 1))
        names = ["foreground", "classes", CORE_OUTPUT]
        foreground, classes, logits = session.run(names, {"image": photos[..., ::-1], "keep": keep})
        assert np.abs(logits - expected).max() <= 1e-4
        assert (classes == expected.argmax(1)).mean() >= 0.999
        powers = np.exp(expected.astype(float) - expected.max(1, keepdims=True))
        probability = powers[:, 1:].sum(1) / powers.sum(1)
        assert np.abs(foreground - 255 * probability).max() <= 1
        assert len(np.unique(classes)) > 1  # else agreement would say nothing


@functools.cache
def small_core() -> Core:
    """torch's exporter takes 7 s, and both forms begin with what it writes."""
    return build_core(SMALL, "random", 21)


@pytest.mark.parametrize(("target", "times_s"), [("cpu", None), ("openvino", (0.1, 0.3)), ("openvino", (0.3, 0.1))])
def test_each_form_of_the_smallest_network(
    tmp_path: Path, target: str, times_s: tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forms differ in their nodes, not in their numbers, and the faster one is written."""

    def exported(*_: object) -> Core:
        return replace(small_core(), model=copy.deepcopy(small_core().model))

    def timed(*_: object) -> list[float]:
        assert times_s is not None
        return list(times_s)

    monkeypatch.setattr(torchvision_core, "torchvision_core", exported)
    monkeypatch.setattr(race, "_race", timed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the times are kept there
    out = tmp_path / "small.onnx"
    lines = run_export(SMALL, "--weights", "random", "--resize", "short_side:64", "--target", target, "-o", out)
    (about,) = (line for line in lines if line.startswith(f"form for {target}: "))
    model = onnx.load_model_from_string(out.read_bytes())
    dilated = [node for node in model.graph.node for a in node.attribute if a.name == "dilations" and max(a.ints) > 8]
    rewritten = target == "openvino" and times_s == (0.1, 0.3)
    assert about.startswith(f"form for {target}: fp32, " + ("3 atrous convolutions as taps" if rewritten else ""))
    assert len(dilated) == (0 if rewritten else 3)
    with with_core_output(model):
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    network = torchvision_core.build_network(SMALL, "random", 21)
    for width, height, batch in ((64, 64, 1), (250, 90, 3), (33, 410, 1), (600, 450, 1)):
        photos = np.stack([images.textured(width, height, seed) for seed in range(batch)])
        feeds: dict[str, NDArray[Any]] = {"image": photos[..., ::-1], "keep": np.ones((batch, 21), np.float32)}
        (logits,) = session.run([CORE_OUTPUT], feeds)
        expected = eager(network, photos)  # up to 20 with these random weights
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_flagship_describes_itself(flagship: Path) -> None:
    metadata = ort.InferenceSession(flagship, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    spec = ModelSpec.from_metadata(metadata)
    assert (spec.name, spec.kind, spec.labels, spec.precision) == (
        "deeplabv3_resnet101",
        "semantic",
        VOC_LABELS,
        "fp32",
    )
    assert spec.resize == ShortSide(short_side_px=225, max_long_side_px=900)
    assert not spec.weights.trained
    assert spec.tools["torch"] == torch.__version__.partition("+")[0]


def test_random_weights_are_the_same_every_time() -> None:
    first, second, other = (torchvision_core.build_network(SMALL, "random", 21, seed) for seed in (0, 0, 1))
    digest = torchvision_core.state_sha256
    assert digest(first) == digest(second) != digest(other)


def state(aux: bool, classes: int = 21) -> dict[str, Any]:
    """A checkpoint with torchvision's keys and values that are not the seeded ones."""
    torch.manual_seed(7)
    network = getattr(segmentation, SMALL)(weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.add_(0.01)
    state_dict: dict[str, Any] = network.state_dict()
    return state_dict


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_from_a_file(tmp_path: Path, aux: bool, nested: bool) -> None:
    saved = state(aux)
    torch.save({"model": saved, "epoch": 3} if nested else saved, tmp_path / "mine.pth")
    network = torchvision_core.build_network(SMALL, str(tmp_path / "mine.pth"), 21)
    loaded = network.state_dict()
    assert loaded.keys() == {key for key in saved if not key.startswith("aux_classifier.")}
    assert all(torch.equal(loaded[key], saved[key]) for key in loaded)


def test_a_fine_tuned_network_with_its_own_labels(tmp_path: Path) -> None:
    torch.save(state(aux=True, classes=3), tmp_path / "mine.pth")
    out = tmp_path / "out.onnx"
    options = ("--labels", "background,cup,hand", "--resize", "short_side:64", "--licence", "MIT")
    run_export(SMALL, "--weights", tmp_path / "mine.pth", "-o", out, *options)
    metadata = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    spec = ModelSpec.from_metadata(metadata)
    assert (spec.labels, spec.licence) == (("background", "cup", "hand"), "MIT")
    assert (spec.weights.source, spec.weights.trained) == ("mine.pth", True)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    def refused(says: str, name: str = "x.pth") -> None:
        with pytest.raises(ExportError, match=says):
            torchvision_core.build_network(SMALL, str(tmp_path / name), 21)

    refused("no weights file", "nowhere.pth")
    (tmp_path / "x.pth").write_text("hello")
    refused("not a torch state dict")
    torch.save([1, 2], tmp_path / "x.pth")
    refused("not a torch state dict")
    torch.save({"model": {"a": 1}}, tmp_path / "x.pth")
    refused("not a torch state dict")
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    refused("keys missing")
    torch.save(state(aux=False, classes=5), tmp_path / "x.pth")
    refused("fewer or more classes")


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("deeplabv3_resnet101", segmentation.DeepLabV3_ResNet101_Weights),
        ("deeplabv3_resnet50", segmentation.DeepLabV3_ResNet50_Weights),
        ("deeplabv3_mobilenet_v3_large", segmentation.DeepLabV3_MobileNet_V3_Large_Weights),
    ],
)
def test_the_catalogue_says_what_torchvision_says(name: str, enum: Any) -> None:
    official, entry = enum.DEFAULT, CATALOGUE[name]
    assert entry.source.place == official.url
    assert entry.source.megabytes == pytest.approx(official.meta["_file_size"] * 2**20 / 1e6, abs=0.1)
    assert entry.gmacs == pytest.approx(official.meta["_ops"], abs=0.1)
    assert [label.strip("_") for label in official.meta["categories"]] == list(VOC_LABELS)
