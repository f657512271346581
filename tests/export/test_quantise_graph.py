"""Graphs in int8: what they compute, held against numpy, and what stays in float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import networks
import quantised
from mattebox_export.errors import ExportError
from mattebox_export.quantise import judging
from mattebox_export.quantise.graph import (
    activation_scale,
    layers,
    name_nodes,
    outer_layers,
    quantise,
    quantise_weights,
    weight_axis,
)
from mattebox_export.quantise.table import Int8, encode_bias
from mattebox_export.race import Form, answer, open_form
from mattebox_export.wrap import wrap
from mattebox_server.engine.config import ProviderName, ProviderUnavailable
from mattebox_server.engine.providers import find_device
from mattebox_server.spec import Quantisation

Floats = NDArray[np.float32]
ordinary = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@settings(deadline=None)
@given(data=st.data(), shape=arrays.array_shapes(min_dims=2, max_dims=4, max_side=5))
def test_weights_lose_at_most_half_a_step(data: st.DataObject, shape: tuple[int, ...]) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    weights: Floats = data.draw(arrays.arrays(np.float32, shape, elements=ordinary))
    values, scales = quantise_weights(weights, axis)
    assert (values.dtype, scales.dtype) == (np.dtype(np.int8), np.dtype(np.float32))
    assert (values.shape, scales.shape) == (shape, (shape[axis],))
    assert np.abs(values.astype(int)).max() <= 127
    steps = scales.reshape([-1 if index == axis else 1 for index in range(len(shape))]).astype(float)
    assert (np.abs(weights - values * steps) <= steps * (0.5 + 1e-5)).all()


def test_a_channel_of_zeros_stays_zero_and_the_others_use_all_levels() -> None:
    weights = np.array([[0, 0, 0], [1, -2, 0.5], [3e-6, 1e-6, 0]], np.float32)
    values, scales = quantise_weights(weights, 0)
    assert values.tolist() == [[0, 0, 0], [64, -127, 32], [127, 42, 0]]
    assert scales == pytest.approx([1, 2 / 127, 3e-6 / 127])


@settings(deadline=None)
@given(low=ordinary, high=ordinary, symmetric=st.booleans())
def test_a_range_is_covered_and_zero_is_exact(low: float, high: float, symmetric: bool) -> None:
    low, high = sorted((low, high))
    scale, zero_point = activation_scale(low, high, symmetric)
    assert scale.dtype == np.float32
    assert scale.shape == zero_point.shape == ()
    assert zero_point.dtype == (np.int8 if symmetric else np.uint8)
    assert scale > 0
    step, zero = float(scale), int(zero_point)
    least, greatest = (-127, 127) if symmetric else (0, 255)
    if symmetric:
        assert zero == 0
    for value in (low, high, 0.0):
        level = np.clip(np.rint(value / step) + zero, least, greatest)
        assert abs((level - zero) * step - value) <= (0.5 + 1e-5) * step if value else level == zero


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.0, 1e-44)])
def test_the_range_of_a_dead_activation(limits: tuple[float, float], symmetric: bool) -> None:
    scale, zero_point = activation_scale(*limits, symmetric)
    assert (float(scale), int(zero_point)) == (1, 0)


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axis"),
    [
        ("Conv", (5, 3, 2, 2), {}, 0),
        ("ConvTranspose", (3, 5, 2, 2), {}, 1),
        ("MatMul", (3, 5), {}, 1),
        ("Gemm", (3, 5), {}, 1),
        ("Gemm", (5, 3), {"transB": 1}, 0),
    ],
)
def test_each_output_channel_has_a_scale_of_its_own(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], axis: int
) -> None:
    """Channels whose weights are a thousand times apart all come within 127ths of their own largest weight."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** np.arange(-2, 3)
    weights = rng.uniform(-1, 1, shape) * sizes.reshape([-1 if index == axis else 1 for index in range(len(shape))])
    image: Floats = rng.uniform(0, 1, (1, 3, 4, 4) if len(shape) == 4 else (2, 3)).astype(np.float32)
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    dims = ["n"] * image.ndim
    graph = helper.make_graph(
        [node],
        "one_layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert weight_axis(node, len(shape)) == axis
    exact, found = (quantised.run(each, image) for each in (model, quantise(model, quantised.int8_of({}))))
    channel = 1 if len(shape) == 4 else found.ndim - 1
    apart = np.abs(found - exact).max(axis=tuple(index for index in range(found.ndim) if index != channel))
    terms = weights.size / 5
    assert (apart <= sizes / 127 * 0.5 * terms).all()
    assert (apart > 0).all()


# In the network below all numbers are sums of powers of two with few bits, so that float32 has them without rounding,
# and numpy and onnxruntime must give the very same. The scales are 1/256, 1/8, 1/8 and 1/4.
RANGES = {"pixels": (0.0, 255 / 256), "a_values": (0.0, 255 / 8), "b": (-8.0, 191 / 8), "c": (-32.0, 127 / 4)}


def mixed_network(seed: int) -> onnx.ModelProto:
    """Builds Conv a, Relu, MaxPool, Convs b and c, Concat, Resize to twice the size, and Conv d with a result of 1."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Conv", ["pixels", "a_kernel", "a_bias"], ["a"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["a_values"], name="a_relu"),
        helper.make_node("MaxPool", ["a_values"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "b_kernel", "b_bias"], ["b"], name="b"),
        helper.make_node("Conv", ["pooled", "c_kernel"], ["c"], name="c"),
        helper.make_node("Concat", ["b", "c"], ["joined"], name="join", axis=1),
        helper.make_node(
            "Resize",
            ["joined", "", "twice"],
            ["enlarged"],
            name="enlarge",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Conv", ["enlarged", "d_kernel", "d_bias"], ["scores"], name="d", pads=[1, 1, 1, 1]),
    ]
    weights = {
        "a_kernel": kernel(rng, 4, 3, 3),
        "a_bias": rng.integers(-99, 100, 4) / 64,
        "b_kernel": kernel(rng, 3, 4, 1),
        "b_bias": rng.integers(-99, 100, 3) / 64,
        "c_kernel": kernel(rng, 2, 4, 1),
        "twice": np.array([1, 1, 2, 2]),
        "d_kernel": rng.integers(-99, 100, (1, 5, 3, 3)) / 512,
        "d_bias": rng.integers(-99, 100, 1) / 64,
    }
    return networks.build(
        nodes, [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()], 1
    )


def kernel(rng: np.random.Generator, outputs: int, inputs: int, size: int) -> NDArray[np.float64]:
    """Weights in steps of 1/256 whose largest in each channel is 127/64, so that their scale is 1/64 exactly."""
    values = rng.integers(-127 * 4, 127 * 4 + 1, (outputs, inputs, size, size)) / 256
    values[:, 0, 0, 0] = 127 / 64
    return values


def convolve(x: NDArray[np.float64], weights: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """A convolution with zero padding that keeps the size."""
    side = weights.shape[-1] // 2
    padded = np.pad(x, [(0, 0), (0, 0), (side, side), (side, side)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], (2, 3))
    sums: NDArray[np.float64] = np.einsum("nchwij,kcij->nkhw", windows, weights)
    return sums + bias[:, np.newaxis, np.newaxis]


def rounded(x: NDArray[np.float64], low: float, high: float, levels: int = 255) -> NDArray[np.float64]:
    """What is left of values after they were in uint8: steps of a 255th of the range, and nothing outside of it."""
    step = (high - low) / levels
    return np.clip(np.rint(x / step), low / step, high / step) * step


def oracle(model: onnx.ModelProto, image: Floats, corrected: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mixed network in numpy: a, b and c in int8, b with another bias, and d in float on values in float."""
    w = {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in model.graph.initializer}
    in_int8 = {name: np.rint(w[f"{name}_kernel"] * 64) / 64 for name in "abc"}
    a = np.maximum(convolve(rounded(image.astype(float), *RANGES["pixels"]), in_int8["a"], w["a_bias"]), 0)
    a = rounded(a, *RANGES["a_values"])
    pooled = np.maximum.reduce([a[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
    b = rounded(convolve(pooled, in_int8["b"], corrected), *RANGES["b"])
    c = rounded(convolve(pooled, in_int8["c"], np.zeros(2)), *RANGES["c"])
    joined = rounded(np.concatenate([b, c], 1), *both(RANGES["b"], RANGES["c"]))
    enlarged = joined.repeat(2, -1).repeat(2, -2)
    return convolve(enlarged, w["d_kernel"], w["d_bias"])


def both(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return min(first[0], second[0]), max(first[1], second[1])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 2), height=st.integers(1, 6), width=st.integers(1, 6))
def test_the_int8_graph_computes_what_numpy_does(seed: int, batch: int, height: int, width: int) -> None:
    model = mixed_network(seed)
    before = model.SerializeToString()
    rng = np.random.default_rng(seed)
    image = (rng.integers(-20, 2 * 256 + 20, (batch, 3, 2 * height, 2 * width)) / 512).astype(np.float32)
    corrected = rng.integers(-99, 100, 3) / 16
    int8 = Int8(
        symmetric=False,
        ranges=RANGES,
        biases={"b": encode_bias(corrected.astype(np.float32))},
        float_layers=("d",),
        fidelity=quantised.GOOD,
    )
    form = quantise(model, int8)
    onnx.checker.check_model(form)  # pyright: ignore[reportUnknownMemberType]
    assert model.SerializeToString() == before
    # The scale of the joined values, (127/4 + 32) / 255, is 1/4 like that of c.
    assert np.array_equal(quantised.run(form, image), oracle(model, image, corrected))


def form_of(float_layers: tuple[str, ...] = ("d",), symmetric: bool = False, seed: int = 1) -> onnx.ModelProto:
    return quantise(mixed_network(seed), quantised.int8_of(RANGES, *float_layers, symmetric=symmetric))


def test_values_that_are_only_moved_get_a_pair_of_their_own() -> None:
    form = form_of(float_layers=())
    pairs = {node.input[0] for node in form.graph.node if node.op_type == "QuantizeLinear"}
    assert pairs == {"pixels", "a_values", "pooled", "b", "c", "joined", "enlarged"}
    scales = {
        t.name: float(numpy_helper.to_array(t))
        for t in form.graph.initializer
        if t.name.endswith("/scale") and not t.dims
    }
    assert (scales["pooled/scale"], scales["joined/scale"], scales["enlarged/scale"]) == (1 / 8, 1 / 4, 1 / 4)
    behind = {node.name: list(node.input)[:1] for node in form.graph.node}
    assert behind["d"] == ["enlarged/float"]
    half = quantise(mixed_network(1), quantised.int8_of({"b": RANGES["b"]}))
    assert [node.input[0] for node in half.graph.node if node.op_type == "QuantizeLinear"] == ["b"]


def test_layers_in_float_keep_their_weights_and_read_values_in_float() -> None:
    model, form = mixed_network(1), form_of(float_layers=("b", "d"))
    nodes = {node.name: node for node in form.graph.node}
    assert list(nodes["b"].input) == ["pooled", "b_kernel", "b_bias"]
    assert list(nodes["d"].input) == ["enlarged", "d_kernel", "d_bias"]
    assert list(nodes["c"].input) == ["pooled/float", "c/weights"]
    assert list(nodes["a"].input) == ["pixels/float", "a/weights", "a_bias"]
    kept = {tensor.name: tensor for tensor in form.graph.initializer}
    assert {name for name in kept if name.endswith("_kernel")} == {"b_kernel", "d_kernel"}
    assert kept["b_kernel"] == next(t for t in model.graph.initializer if t.name == "b_kernel")
    assert {kept[f"{name}/weights/int8"].data_type for name in "ac"} == {TensorProto.INT8}


def test_symmetric_activations_have_no_zero_point() -> None:
    form = form_of(symmetric=True)
    points = [numpy_helper.to_array(t) for t in form.graph.initializer if t.name.endswith("/zero_point")]
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)


@pytest.mark.parametrize(
    "wrong",
    [
        quantised.int8_of({"elsewhere": (0, 1)}),
        quantised.int8_of({}, "elsewhere"),
        quantised.int8_of({}).model_copy(update={"biases": {"elsewhere": encode_bias(np.zeros(1, np.float32))}}),
    ],
)
def test_a_table_of_another_graph_is_refused_by_name(wrong: Int8) -> None:
    with pytest.raises(ExportError, match=r"another graph: this one has no elsewhere$"):
        quantise(mixed_network(1), wrong)


def test_weights_that_an_inner_graph_uses_are_kept() -> None:
    """The branches of an If take the weights of the graph around it, of which they aren't inputs."""
    branches: dict[str, Any] = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["scores_before", "factor"], [f"{name}_scores"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_scores", TensorProto.FLOAT, None)],
        )
        for name, op in (("then", "Mul"), ("else", "Div"))
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["scores_before"], name="layer"),
        helper.make_node("If", ["yes"], ["scores"], name="choice", **branches),
    ]
    weights = {"kernel": np.ones((1, 3, 1, 1), np.float32), "factor": np.float32(2), "yes": np.array(True)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    model = networks.build(nodes, tensors, 1)
    image = np.ones((1, 3, 2, 2), np.float32)
    assert quantised.run(quantise(model, quantised.int8_of({})), image) == pytest.approx(np.full((1, 1, 2, 2), 6))


# The providers.


def smooth_artifact(float_layers: tuple[str, ...]) -> Form:
    """The mixed network in int8, its result brought to [0, 1]."""
    core = quantised.core_of(mixed_network(3))
    core = replace(core, activation="sigmoid")
    quantisation = Quantisation(calibration="test", float_layers=float_layers, fidelity=quantised.GOOD)
    spec = quantised.saliency_spec().model_copy(update={"precision": "int8", "quantisation": quantisation})
    form = form_of(float_layers, seed=3)
    return Form(wrap(replace(core, model=form), spec), spec, "int8")


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("float_layers", [("d",), ("a", "d"), ()])
def test_providers_give_nearly_the_same(tmp_path: Path, provider: ProviderName, float_layers: tuple[str, ...]) -> None:
    """The runtimes compute in int8 what the graph says in float, but for the rounding of biases and sums."""
    try:
        device = find_device(provider)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    form = smooth_artifact(float_layers)
    photos = quantised.discs(4)
    session = open_form(form, device, tmp_path)
    try:
        for photo in photos:
            expected = judging.run(judging.float_session(form.artifact), form.spec, photo)["foreground"]
            assert expected.std() > 20  # else agreement would say nothing
            apart = np.abs(answer(session, photo).astype(int) - expected)
            assert apart.max() <= 1
    finally:
        session.close()


def test_onnxruntimes_kernels_for_processors_without_vnni() -> None:
    """They take weights as uint8, and onnxruntime turns them into these, also of a layer that has no bias."""
    ranges = {"first_values": (0.0, 1.0), "choose0_values": (0.0, 1.0)}
    form = quantise(networks.sensitive_network(1), quantised.int8_of(ranges, "first", "choose0", "last"))
    spec = quantised.saliency_spec()
    for artifact in (wrap(quantised.core_of(form), spec), smooth_artifact(("d",)).artifact):
        options = ort.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = ort.InferenceSession(artifact.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for photo in quantised.discs(2):
            expected = judging.run(judging.float_session(artifact), spec, photo)["foreground"]
            assert np.abs(judging.run(session, spec, photo)["foreground"].astype(int) - expected).max() <= 1


# Layers, and which of them are the outer ones.


def chain(*ops: str, unnamed: bool = False) -> onnx.ModelProto:
    """Builds 1x1 convolutions ("conv"), rectifiers ("relu") and so on, one behind the other."""
    nodes: list[onnx.NodeProto] = []
    for index, op in enumerate(ops):
        source = f"v{index}" if index else "pixels"
        target = f"v{index + 1}" if index + 1 < len(ops) else "scores"
        inputs = [source, "kernel"] if op == "Conv" else [source]
        nodes.append(helper.make_node(op, inputs, [target], name=None if unnamed else f"n{index}"))
    weights = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")
    return networks.build(nodes, [weights], 3)


def test_the_first_and_last_layers_are_the_outer_ones() -> None:
    model = chain("Relu", "Conv", "Relu", "Conv", "Conv", "Sigmoid")
    assert [node.name for node in layers(model)] == ["n1", "n3", "n4"]
    assert outer_layers(model) == {"n1", "n4"}
    assert outer_layers(chain("Conv")) == {"n0"}
    assert outer_layers(chain("Conv", "Conv")) == {"n0", "n1"}
    assert outer_layers(chain("Relu")) == frozenset()


def test_two_heads_and_two_stems_are_outer() -> None:
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["stem1"], name="stem1"),
        helper.make_node("Conv", ["pixels", "kernel"], ["stem2"], name="stem2"),
        helper.make_node("Add", ["stem1", "stem2"], ["stems"], name="add"),
        helper.make_node("Conv", ["stems", "kernel"], ["middle"], name="middle"),
        helper.make_node("Conv", ["middle", "kernel"], ["head1"], name="head1"),
        helper.make_node("Conv", ["middle", "kernel"], ["head2"], name="head2"),
        helper.make_node("Mul", ["head1", "head2"], ["scores"], name="mul"),
        helper.make_node("MatMul", ["middle", "pixels"], ["product"], name="of two values"),
    ]
    model = networks.build(nodes, [numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")], 3)
    assert outer_layers(model) == {"stem1", "stem2", "head1", "head2"}
    assert {node.name for node in layers(model)} == {"stem1", "stem2", "middle", "head1", "head2"}


def test_a_size_that_is_read_makes_no_layer_an_outer_one() -> None:
    """A network that resizes its values to the size of the photo, and its answer to the size of inner values."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["photo_shape"], name="photo_shape"),
        helper.make_node("Conv", ["pixels", "kernel"], ["first"], name="first", strides=[2, 2]),
        helper.make_node("Resize", ["first", "", "", "photo_shape"], ["large"], name="enlarge", mode="linear"),
        helper.make_node("Conv", ["large", "kernel"], ["inner1"], name="inner1"),
        helper.make_node("Shape", ["inner1"], ["inner_shape"], name="inner_shape"),
        helper.make_node("Conv", ["inner1", "kernel"], ["inner2"], name="inner2", strides=[2, 2]),
        helper.make_node("Conv", ["inner2", "kernel"], ["last"], name="last"),
        helper.make_node("Resize", ["last", "", "", "inner_shape"], ["scores"], name="to_size", mode="linear"),
    ]
    model = networks.build(nodes, [numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")], 3)
    assert outer_layers(model) == {"first", "last"}


def test_nodes_get_names_of_their_own() -> None:
    model = chain("Conv", "Relu", "Conv", unnamed=True)
    named = name_nodes(model)
    assert {node.name for node in model.graph.node} == {""}
    assert len({node.name for node in named.graph.node}) == 3
    assert name_nodes(named) == named
    model.graph.node[0].name = model.graph.node[2].name = "same"
    first, second, third = (node.name for node in name_nodes(model).graph.node)
    assert first == "same"
    assert len({first, second, third}) == 3
