"""The other operators of a TFLite file against their definition, and the graph as a whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mattebox_export.catalogue import Normalisation
from mattebox_export.tflite.importer import import_tflite, tflite_core
from tflite_checks import Floats, check, one, operators, random, run
from tflite_files import File, Step

NONE, RELU, RELU_N1_TO_1, RELU6, TANH = range(5)


@pytest.mark.parametrize(
    ("axes", "keep"), [((1, 2), True), ((-2, -3), True), ((3,), True), ((1, 2), False), ((3,), False)]
)
def test_mean(axes: tuple[int, ...], keep: bool) -> None:
    x = random(1, 6, 5, 3)
    one("MEAN", x, [np.array(axes, np.int32)], x.mean(axis=axes, keepdims=keep), {"KeepDims": keep})


ARITHMETIC = [("ADD", np.add), ("MUL", np.multiply), ("SUB", np.subtract)]


@pytest.mark.parametrize(("kind", "function"), ARITHMETIC)
@pytest.mark.parametrize("shape", [(3,), (5, 1), (1, 1, 1, 3), (4, 5, 3), ()])
def test_arithmetic_with_a_constant_on_either_side(kind: str, function: Any, shape: tuple[int, ...]) -> None:
    x, constant = random(1, 4, 5, 3), random(*shape, seed=1)
    one(kind, x, [constant], function(x, constant))
    check([Step(kind, [constant, "x"], "y", x.shape)], x, function(constant, x))


@pytest.mark.parametrize(("kind", "function"), ARITHMETIC)
def test_arithmetic_of_two_activations(kind: str, function: Any) -> None:
    x = random(1, 4, 5, 3)
    pooled = x.mean(axis=(1, 2), keepdims=True)
    mean = Step("MEAN", ["x", np.array([1, 2], np.int32)], "m", (1, 1, 1, 3), {"KeepDims": True})
    check([mean, Step(kind, ["x", "m"], "y", x.shape)], x, function(x, pooled))


FUNCTIONS: dict[str, Callable[[Floats], NDArray[Any]]] = {
    "RELU": lambda v: np.maximum(v, 0),
    "RELU_N1_TO_1": lambda v: np.clip(v, -1, 1),
    "RELU6": lambda v: np.clip(v, 0, 6),
    "TANH": np.tanh,
    "LOGISTIC": lambda v: 1 / (1 + np.exp(-v)),
    "HARD_SWISH": lambda v: v * np.clip(v + 3, 0, 6) / 6,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions(kind: str) -> None:
    x = random(1, 6, 5, 3) * 4
    one(kind, x, [], FUNCTIONS[kind](x))


@pytest.mark.parametrize(
    ("number", "kind"), [(RELU, "RELU"), (RELU_N1_TO_1, "RELU_N1_TO_1"), (RELU6, "RELU6"), (TANH, "TANH")]
)
def test_fused_activations(number: int, kind: str) -> None:
    x, three = random(1, 4, 5, 3), np.array(3, np.float32)
    one("MUL", x, [three], FUNCTIONS[kind](x * three), {"FusedActivationFunction": number})


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3), (6, 5, 3)])
def test_prelu(shape: tuple[int, ...]) -> None:
    x, slopes = random(1, 6, 5, 3), random(*shape, seed=1)
    one("PRELU", x, [slopes], np.where(x < 0, x * slopes, x))


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_softmax_is_over_the_channels(beta: float) -> None:
    x = random(1, 6, 5, 3)
    powers = np.exp(x * beta)
    one("SOFTMAX", x, [], powers / powers.sum(axis=-1, keepdims=True), {"Beta": beta})


@pytest.mark.parametrize("joined", [1, 2, 3, -1, -2])
def test_concatenation(joined: int) -> None:
    x = random(1, 4, 5, 3)
    expected = np.concatenate([x, np.maximum(x, 0)], axis=joined)
    relu = Step("RELU", ["x"], "r", x.shape)
    check([relu, Step("CONCATENATION", ["x", "r"], "y", expected.shape, {"Axis": joined})], x, expected)


def test_pad() -> None:
    x, pads = random(1, 4, 5, 3), [(0, 0), (1, 2), (3, 0), (0, 4)]
    one("PAD", x, [np.array(pads, np.int32)], np.pad(x, pads))


@pytest.mark.parametrize(
    ("old", "new"),
    [((4, 6, 3), (6, 4, 3)), ((4, 6, 3), (72,)), ((4, 6, 3), (24, 3)), ((1, 1, 6), (6,)), ((4, 6, 1), (2, 12, 1)),
     ((4, 6, 1), (2, 3, 4)), ((2, 3, 4), (4, 6, 1)), ((1, 1, 6), (1, 3, 2))],
)  # fmt: skip
def test_reshape_keeps_tflites_order(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    x = random(1, *old)
    one("RESHAPE", x, [np.array([1, *new[:-1], -1], np.int32)], x.reshape(1, *new))


def test_reshape_and_back_without_moving_values() -> None:
    x = random(1, 1, 1, 6)
    model = one("RESHAPE", x, [], x.reshape(1, 6))
    assert operators(model) == ["Reshape"]


@pytest.mark.parametrize(
    ("shape", "keep", "out"), [((4, 5, 3), False, 60), ((1, 1, 6), False, 6), ((4, 5, 3), True, 3)]
)
def test_fully_connected(shape: tuple[int, ...], keep: bool, out: int) -> None:
    x, weights, bias = random(1, *shape), random(7, out, seed=1), random(7, seed=2)
    expected = x.reshape(-1, out) @ weights.T + bias
    expected = expected.reshape(1, *shape[:-1], 7) if keep else expected
    one("FULLY_CONNECTED", x, [weights, bias], expected, {"KeepNumDims": keep, "FusedActivationFunction": NONE})


def interpolate(x: Floats, dimension: int, new: int, corners: bool, half: bool) -> Floats:
    old = x.shape[dimension]
    scale = (old - 1) / (new - 1) if corners and new > 1 else old / new
    values: list[Floats] = []
    for i in range(new):
        place = (i + 0.5) * scale - 0.5 if half else i * scale
        low, high = max(int(np.floor(place)), 0), min(int(np.ceil(place)), old - 1)
        low = min(low, old - 1)
        values.append(x.take(low, dimension) * (1 - (place - low)) + x.take(high, dimension) * (place - low))
    return np.stack(values, dimension).astype(np.float32)


@pytest.mark.parametrize(("corners", "half"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size", [(8, 10), (7, 3), (4, 8), (1, 2), (12, 5)])
def test_resize(corners: bool, half: bool, size: tuple[int, int]) -> None:
    x = random(1, 4, 5, 3)
    expected = interpolate(interpolate(x, 1, size[0], corners, half), 2, size[1], corners, half)
    options = {"AlignCorners": corners, "HalfPixelCenters": half}
    one("RESIZE_BILINEAR", x, [np.array(size, np.int32)], expected, options)


@pytest.mark.parametrize(("old", "new"), [(5, 8), (3, 7), (7, 3), (49, 97), (41, 83)])
def test_a_resize_by_a_factor_that_floats_cannot_hold_has_the_right_size(old: int, new: int) -> None:
    ramp = np.arange(old, dtype=np.float32) / old
    x = np.add.outer(ramp, ramp)[None, :, :, None]
    expected = interpolate(interpolate(x, 1, new, False, True), 2, new, False, True)
    one("RESIZE_BILINEAR", x, [np.array([new, new], np.int32)], expected, {"HalfPixelCenters": True})


PHOTO = random(1, 4, 5, 3)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step("CONCATENATION", ["x", "x"], "y", (2, 4, 5, 3), {"Axis": 0}), np.concatenate([PHOTO, PHOTO])),
        (Step("MEAN", ["x", np.array([0], np.int32)], "y", PHOTO.shape, {"KeepDims": True}), PHOTO),
        (Step("RESHAPE", ["x"], "y", (4, 15)), PHOTO.reshape(4, 15)),
        (
            Step("PAD", ["x", np.array([[0, 1], [0, 0], [0, 0], [0, 0]], np.int32)], "y", (2, 4, 5, 3)),
            np.concatenate([PHOTO, np.zeros_like(PHOTO)]),
        ),
    ],
)
def test_what_works_across_photos_fixes_the_batch(step: Step, expected: Floats) -> None:
    model = import_tflite(File([step], PHOTO.shape).data)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    np.testing.assert_array_equal(run(model, PHOTO), expected)


def test_input_and_outputs_keep_their_names_and_order() -> None:
    steps = [Step("RELU", ["x"], "r", (1, 4, 5, 3)), Step("TANH", ["r"], "t", (1, 4, 5, 3))]
    model = import_tflite(File(steps, (1, 4, 5, 3), outputs=["t", "r"]).data)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "t", "r"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 4, 5]


def test_a_core_of_a_file() -> None:
    x = random(2, 4, 5, 3)
    data = File([Step("RELU", ["x"], "y", (1, 4, 5, 3))], (1, 4, 5, 3)).data
    core = tflite_core(data, Normalisation((0, 0, 0), (1, 1, 1)), "none")
    nchw = x.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(core.reference(nchw), np.maximum(nchw, 0))
