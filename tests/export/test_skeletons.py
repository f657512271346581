"""Skeletons filled with weights are torchvision's networks, and those of the package are what torch exports."""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from onnx import numpy_helper

import checkpoints
import images
from conftest import run_export
from mattebox_export import artifact
from mattebox_export.catalogue import CATALOGUE
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.parity import upsample
from mattebox_export.skeleton_core import skeleton_core
from mattebox_export.skeletons import fold, load_skeleton
from mattebox_server.spec import ModelSpec

NAMES = ("deeplabv3_resnet101", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large")
SMALL = "deeplabv3_mobilenet_v3_large"
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
SIZES = ((301, 225), (193, 257))


def test_every_network_of_torchvision_has_a_skeleton() -> None:
    assert {name for name, entry in CATALOGUE.items() if entry.form == "torchvision"} == set(NAMES)
    assert sum(len(load_skeleton(name).SerializeToString()) for name in NAMES) < 500_000


def save_safetensors(state: dict[str, NDArray[Any]], path: Path) -> Path:
    entries, body = list[str](), b""
    types = {"float32": "F32", "float16": "F16", "int64": "I64"}
    for key, value in state.items():
        place = f"[{len(body)},{len(body) + value.nbytes}]"
        kind = types[value.dtype.name]
        entries.append(f'"{key}":{{"dtype":"{kind}","shape":{list(value.shape)},"data_offsets":{place}}}')
        body += value.tobytes()
    path.write_bytes(checkpoints.safetensors(("{" + ",".join(entries) + "}").encode(), body))
    return path


def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(None, {"image": image})[0]
    return logits


def photos(width: int, height: int) -> NDArray[np.float32]:
    """Two normalised photos (2, 3, height, width)."""
    textured = np.stack([images.textured(width, height, seed) for seed in range(2)])
    return np.asarray(((textured / 255 - MEAN) / STD).transpose(0, 3, 1, 2), np.float32)


def test_a_filled_skeleton_needs_no_torch(tmp_path: Path) -> None:
    """The core and the reference, whose batch norms are apart, give the same logits. The file says the classes."""
    path = save_safetensors(checkpoints.random_state(SMALL, classes=3), tmp_path / "mine.safetensors")
    core = skeleton_core(SMALL, path)
    onnx.checker.check_model(core.model, full_check=True)  # pyright: ignore[reportUnknownMemberType]
    assert core.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(node.op_type == "BatchNormalization" for node in core.model.graph.node)
    assert core.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3
    image = photos(90, 70)
    expected = core.reference(image)
    assert expected.shape == (2, 3, 70, 90)
    assert np.abs(upsample(run(core.model, image), 70, 90) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert expected.std() > 0


def test_batch_norms_are_folded_in_double_precision() -> None:
    """The first layer by its formula in float64, rounded once."""
    state = checkpoints.random_state(SMALL)
    model = fold(load_skeleton(SMALL), state)
    filled = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale, shift, mean, variance = (
        state[f"backbone.0.1.{name}"].astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(variance + np.float32(1e-3))  # MobileNet's epsilon
    kernel = state["backbone.0.0.weight"].astype(np.float64) * factor.reshape(-1, 1, 1, 1)
    assert_array_equal(filled["backbone.0.0.weight"], kernel.astype(np.float32))
    assert_array_equal(filled["backbone.0.0.weight_bias"], (shift - mean * factor).astype(np.float32))
    assert_array_equal(filled["classifier.4.weight"], state["classifier.4.weight"])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = checkpoints.random_state(SMALL)

    def refused(says: str, **changes: NDArray[Any] | None) -> None:
        changed = {key: value for key, value in {**state, **changes}.items() if value is not None}
        path = save_safetensors(changed, tmp_path / "mine.safetensors")
        with pytest.raises(ExportError) as caught:
            skeleton_core(SMALL, path)
        assert says in str(caught.value)

    key = "backbone.0.0.weight"
    refused(
        "mine.safetensors does not fit the network: 1 keys missing ['backbone.0.0.weight'], 0 unknown []", **{key: None}
    )
    refused("1 keys missing ['classifier.4.weight']", **{"classifier.4.weight": None})
    refused("1 unknown ['head.weight']", **{"head.weight": np.zeros(1, np.float32)})
    refused("1 of another shape or type ['backbone.0.0.weight float32 (16, 3) ", **{key: state[key][..., 0, 0]})
    refused("['backbone.0.0.weight int64 (16, 3, 3, 3) instead", **{key: state[key].astype(np.int64)})
    refused("['classifier.4.bias float32 (20,) instead of (21,)']", **{"classifier.4.bias": np.zeros(20, np.float32)})
    refused("backbone.0.0.weight are not finite", **{key: state[key] * np.float32("nan")})
    refused("backbone.0.0.weight are not finite", **{"backbone.0.1.running_var": -np.ones(16, np.float32)})


def test_what_only_training_needs_is_left_out(tmp_path: Path) -> None:
    """The auxiliary head and counters of batches; half precision is taken too."""
    state: dict[str, NDArray[Any]] = dict(checkpoints.random_state(SMALL))
    plain = skeleton_core(SMALL, save_safetensors(state, tmp_path / "plain.safetensors"))
    state["aux_classifier.0.weight"] = np.ones((2, 2), np.float32)
    state["backbone.0.1.num_batches_tracked"] = np.array(7)
    more = skeleton_core(SMALL, save_safetensors(state, tmp_path / "more.safetensors"))
    assert more.model == plain.model
    halves = {key: value.astype(np.float16) for key, value in checkpoints.random_state(SMALL).items()}
    half = skeleton_core(SMALL, save_safetensors(halves, tmp_path / "half.safetensors"))
    singles = {key: value.astype(np.float32) for key, value in halves.items()}
    single = skeleton_core(SMALL, save_safetensors(singles, tmp_path / "single.safetensors"))
    assert half.model == single.model


@functools.cache
def saved(name: str, folder: Path, zipped: bool) -> Path:
    """A file as torch saves it, of calibrated random weights with an auxiliary head."""
    import torch
    from torchvision.models import segmentation

    from mattebox_export.torchvision_core import build_network

    state = build_network(name, "random", 21).state_dict()
    rng = torch.Generator().manual_seed(1)
    for key, value in state.items():
        if key.endswith(("fc1.bias", "fc2.bias", "classifier.4.bias")):  # which would be 0
            value.add_(0.01 * torch.randn(value.shape, generator=rng))
    if name == SMALL:  # whose logits would reach 400, while a trained network's stay near 10
        state["classifier.4.weight"].mul_(0.03)
    whole = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
    path = folder / f"{name}_{zipped}.pth"
    torch.save({**whole, **state}, path, _use_new_zipfile_serialization=zipped)
    return path


@functools.cache
def both_cores(name: str, folder: Path) -> tuple[Core, Core]:
    """The same file through torch and through the skeleton."""
    from mattebox_export.torchvision_core import torchvision_core

    path = saved(name, folder, zipped=name != "deeplabv3_resnet50")  # of which one is in the old format
    return torchvision_core(name, str(path), 21), skeleton_core(name, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torchvision")
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("name", NAMES)
def test_against_torch_in_eager_mode(name: str, folder: Path) -> None:
    """Both ways to the core, and the reference of the way without torch, at two sizes with a batch of 2."""
    proof, core = both_cores(name, folder)
    assert core.weights_sha256 == proof.weights_sha256
    for width, height in SIZES:
        image = photos(width, height)
        expected = proof.reference(image)  # torch's eager mode
        for found in (core.reference(image), *(upsample(run(c.model, image), height, width) for c in (core, proof))):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-4
        assert expected.std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_the_one_that_torch_folds(name: str, folder: Path) -> None:
    """Node by node, and weight by weight but for the rounding, as torch folds in float32."""
    proof, core = both_cores(name, folder)
    assert [plain(node) for node in core.model.graph.node] == [plain(node) for node in proof.model.graph.node]
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in proof.model.graph.initializer}
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in core.model.graph.initializer}
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert np.abs(found[key] - array).max() <= 1e-6 * max(1, np.abs(array).max())
    shapes = {value.name: value.type for value in core.model.graph.value_info}
    values = {name for node in core.model.graph.node for name in node.output}
    assert shapes == {value.name: value.type for value in proof.model.graph.value_info if value.name in values}


def plain(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node without what torch notes about it."""
    without = copy.deepcopy(node)
    del without.metadata_props[:]
    without.ClearField("doc_string")
    return without


def given_core(core: Core, *_: object) -> Core:
    return core


def test_both_ways_write_the_same_description(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes are equal but those of the expected map, in which grey levels between two are rounded either way."""
    specs = list[ModelSpec]()
    path = saved(SMALL, folder, zipped=True)
    options = ("--target", "cpu", "--precision", "fp32", "--resize", "short_side:64")
    for core in both_cores(SMALL, folder):
        monkeypatch.setattr(artifact, "named_core", functools.partial(given_core, core))
        run_export(SMALL, "--weights", path, *options, "-o", folder / "out.onnx")
        (description,) = onnx.load_model_from_string((folder / "out.onnx").read_bytes()).metadata_props
        specs.append(ModelSpec.from_metadata({description.key: description.value}))
    first, second = (spec.model_copy(update={"expectation": None}).to_json() for spec in specs)
    assert first == second
    maps = [expectation for spec in specs if (expectation := spec.expectation) is not None]
    assert maps[0].classes == maps[1].classes
    levels = [np.frombuffer(base64.b64decode(each.foreground), np.uint8).astype(int) for each in maps]
    assert np.abs(levels[0] - levels[1]).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_skeletons_of_the_package_are_what_torch_exports(name: str) -> None:
    """Run `make skeletons` if this fails; names of values may differ between versions of torch."""
    pytest.importorskip("torchvision")
    from skeletons import make_skeleton

    made, packaged = make_skeleton(name), load_skeleton(name)
    assert structure(made) == structure(packaged)
    assert [value.type for value in made.graph.input] == [value.type for value in packaged.graph.input]
    assert made.opset_import == packaged.opset_import


def structure(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """Nodes with their attributes and inputs: weights by name and shape, constants by value, others by their number."""
    values: dict[str, object] = {"": None, "image": "image"}
    for tensor in model.graph.initializer:
        waits = tensor.data_location == onnx.TensorProto.EXTERNAL
        value = (tensor.name, *tensor.dims) if waits else (tensor.dims, numpy_helper.to_array(tensor).tolist())
        values[tensor.name] = str(value)
    found = list[tuple[object, ...]]()
    for index, node in enumerate(model.graph.node):
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        found.append((node.op_type, [values[name] for name in node.input], attributes))
        values |= {name: (index, output) for output, name in enumerate(node.output)}
    return found
