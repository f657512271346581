"""Every node of every form of an artifact has a CUDA kernel of its types, so that nothing falls back to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import networks
from cuda_kernels import missing_kernels
from mattebox_export.catalogue import Activation, Normalisation
from mattebox_export.core import Core
from mattebox_export.forms import forms_for
from mattebox_export.normal_form import prepare
from mattebox_export.wrap import wrap
from mattebox_server.spec import ModelSpec, Precision, ShortSide, Target, Weights

FORMS: tuple[tuple[Target, Precision], ...] = (
    ("cpu", "fp32"),
    ("openvino", "fp32"),
    ("cuda", "fp32"),
    ("cuda", "fp16"),
)
every_form = pytest.mark.parametrize(("target", "precision"), FORMS, ids=["-".join(form) for form in FORMS])


def load(path: Path) -> onnx.ModelProto:
    return onnx.load_model_from_string(path.read_bytes())


def core_of(model: onnx.ModelProto, activation: Activation = "none", by_maximum: bool = False) -> Core:
    normalisation = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), by_maximum)
    return Core(model, normalisation, activation, lambda image: image, "0" * 64)


def missing(core: Core, labels: int, target: Target, precision: Precision) -> list[str]:
    """What all graphs that the exporter may write for a target lack; one label makes a saliency network."""
    spec = ModelSpec(
        name="any",
        kind="semantic" if labels > 1 else "saliency",
        labels=("background", *(f"label{index}" for index in range(1, labels))),
        resize=ShortSide(short_side_px=64, max_long_side_px=256),
        precision=precision,
        target=target,
        weights=Weights(source="random", sha256="0" * 64, trained=False),
        licence="MIT",
        tools={},
    )
    forms = forms_for(prepare(core.model), target, precision)
    return [line for model, _ in forms for line in missing_kernels(wrap(replace(core, model=model), spec))]


@every_form
@pytest.mark.parametrize("activation", ["none", "sigmoid", "minmax"])
def test_saliency(tmp_path: Path, activation: Activation, target: Target, precision: Precision) -> None:
    model = load(networks.save_brightness_core(tmp_path / "core.onnx"))
    core = core_of(model, activation, by_maximum=activation == "minmax")
    assert missing(core, 1, target, precision) == []


@every_form
@pytest.mark.parametrize("save", [networks.save_colour_core, networks.save_half_size_core])
def test_semantic(tmp_path: Path, save: Callable[[Path], Path], target: Target, precision: Precision) -> None:
    model = load(save(tmp_path / "core.onnx"))
    assert missing(core_of(model), 4, target, precision) == []


@every_form
def test_rewritten_convolutions(target: Target, precision: Precision) -> None:
    for model, labels in ((networks.atrous_network((9, 12)), 5), (networks.joined_network((2, 3), bias=True), 4)):
        assert missing(core_of(model), labels, target, precision) == []


@every_form
def test_u2netp(target: Target, precision: Precision) -> None:
    core = networks.u2netp_core()
    assert missing(core, 1, target, precision) == []


def test_mobilenet() -> None:
    """One test for all forms, because torch's exporter takes 7 s."""
    pytest.importorskip("torchvision")
    from mattebox_export.torchvision_core import torchvision_core

    core = torchvision_core("deeplabv3_mobilenet_v3_large", "random", 21)
    for target, precision in FORMS:
        assert missing(core, 21, target, precision) == []


def test_resnet(flagship: Path) -> None:
    assert missing_kernels(load(flagship)) == []


@pytest.mark.parametrize("opset", range(18, 28))
def test_head_and_tail_of_a_core_of_any_opset(tmp_path: Path, opset: int) -> None:
    """The head and the tail take the opset of the user's core."""
    model = load(networks.save_half_size_core(tmp_path / "core.onnx"))
    model.opset_import[0].version = opset
    assert missing(core_of(model), 4, "cuda", "fp32") == []


def quantised(activation_dtype: int, bias_dtype: int) -> onnx.ModelProto:
    """A 1x1 convolution with int8 weights for each channel, in the form of QuantizeLinear and DequantizeLinear."""
    values = {
        "scale": np.float32(0.02),
        "zero": np.zeros((), helper.tensor_dtype_to_np_dtype(activation_dtype)),
        "kernel": np.ones((4, 3, 1, 1), np.int8),
        "scales": np.full(4, 0.01, np.float32),
        "zeros": np.zeros(4, np.int8),
        "bias": np.zeros(4, helper.tensor_dtype_to_np_dtype(bias_dtype)),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["pixels", "scale", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["kernel", "scales", "zeros"], ["weights"], axis=0),
    ]
    bias = "bias"
    if bias_dtype == TensorProto.INT32:
        bias = "float_bias"
        nodes.append(helper.make_node("DequantizeLinear", ["bias", "scales"], [bias], name="of_bias", axis=0))
    nodes.append(helper.make_node("Conv", ["values", "weights", bias], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("activation_dtype", [TensorProto.UINT8, TensorProto.INT8])
def test_int8_has_kernels_if_its_biases_are_float(activation_dtype: int) -> None:
    """DequantizeLinear takes int32 on the CPU only, and onnxruntime doesn't turn it into a constant beforehand."""
    model = quantised(activation_dtype, TensorProto.FLOAT)
    assert missing(core_of(model), 4, "cuda", "fp32") == []
    model = quantised(activation_dtype, TensorProto.INT32)
    (line,) = missing(core_of(model), 4, "cuda", "fp32")
    assert line == "of_bias: DequantizeLinear-13 has no CUDA kernel for T = int32, tensor(float) = float"


@pytest.mark.parametrize(
    ("node", "dtype", "opset", "lacks"),
    [
        (helper.make_node("Atan", ["x"], ["y"]), TensorProto.FLOAT, 18, "Atan has no CUDA kernel"),
        (helper.make_node("Relu", ["x"], ["y"], domain="mine"), TensorProto.FLOAT, 18, "Relu has no CUDA kernel"),
        (helper.make_node("Round", ["x"], ["y"]), TensorProto.FLOAT16, 22, None),
        (
            helper.make_node("Round", ["x"], ["y"]),
            TensorProto.BFLOAT16,
            22,
            "Round-22 has no CUDA kernel for T = bfloat16",
        ),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), TensorProto.FLOAT, 21, None),
        (
            helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]),
            TensorProto.FLOAT,
            22,  # the kernel without an end is for the version of opset 12 only
            "MaxPool-22 has no CUDA kernel for T = float",
        ),
    ],
)
def test_what_has_no_kernel_is_named(node: onnx.NodeProto, dtype: int, opset: int, lacks: str | None) -> None:
    inputs, outputs = ([helper.make_tensor_value_info(name, dtype, ["n", 3, "h", "w"])] for name in ("x", "y"))
    graph = helper.make_graph([node], "one_node", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)])
    assert missing_kernels(model) == ([] if lacks is None else [f"y: {lacks}"])
