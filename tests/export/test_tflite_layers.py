"""Convolutions and pools of a TFLite file against their definition, written out in loops over TFLite's own layout."""

import itertools
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tflite_checks import Floats, check, one, operators, random
from tflite_files import Step

Pair = tuple[int, int]  # along height and width
SAME, VALID = 0, 1


def axis(length: int, window: int, stride: int, dilation: int, padding: int) -> tuple[int, int]:
    """TFLite's length of the output and its offset before the first value."""
    reach = (window - 1) * dilation + 1
    if padding == VALID:
        return (length - reach + stride) // stride, 0
    out = (length + stride - 1) // stride
    return out, max(0, (out - 1) * stride + reach - length) // 2


def windows(x: Floats, window: Pair, strides: Pair, dilations: Pair, padding: int) -> Any:
    """Each place of the output with the pairs of a place in the window and the value there, (C,), that exist."""
    _, height, width, _ = x.shape
    rows, top = axis(height, window[0], strides[0], dilations[0], padding)
    columns, left = axis(width, window[1], strides[1], dilations[1], padding)
    for i, j in itertools.product(range(rows), range(columns)):
        found: list[tuple[tuple[int, int], Floats]] = []
        for u, v in itertools.product(range(window[0]), range(window[1])):
            row, column = i * strides[0] - top + u * dilations[0], j * strides[1] - left + v * dilations[1]
            if 0 <= row < height and 0 <= column < width:
                found.append(((u, v), x[0, row, column]))
        yield (rows, columns), (i, j), found


def convolve(x: Floats, weights: Floats, bias: Floats, options: Mapping[str, int]) -> Floats:
    out: Floats | None = None
    strides, dilations = (
        (options["StrideH"], options["StrideW"]),
        (options["DilationHFactor"], options["DilationWFactor"]),
    )
    groups = x.shape[3] // weights.shape[3]
    for size, (i, j), found in windows(x, (weights.shape[1], weights.shape[2]), strides, dilations, options["Padding"]):
        out = np.zeros((1, *size, len(weights)), np.float32) if out is None else out
        for o in range(len(weights)):
            group = o // (len(weights) // groups)
            part = slice(group * weights.shape[3], (group + 1) * weights.shape[3])
            out[0, i, j, o] = bias[o] + sum(float(value[part] @ weights[o, u, v]) for (u, v), value in found)
    assert out is not None
    return out


def sliding(
    padding: int, strides: tuple[int, int] = (1, 1), dilations: tuple[int, int] = (1, 1), **more: int
) -> dict[str, int]:
    options = {"Padding": padding, "StrideH": strides[0], "StrideW": strides[1]}
    return {**options, "DilationHFactor": dilations[0], "DilationWFactor": dilations[1], **more}


WINDOWS = [
    ((3, 3), (1, 1), (1, 1), SAME),
    ((3, 3), (2, 2), (1, 1), SAME),  # of 8 rows: nothing before, one behind; of 9 columns: one on both sides
    ((2, 4), (1, 3), (1, 1), SAME),
    ((5, 2), (3, 2), (1, 1), VALID),
    ((3, 2), (1, 1), (2, 3), SAME),
    ((3, 2), (2, 1), (2, 3), VALID),
    ((1, 1), (2, 2), (1, 1), SAME),
]


@pytest.mark.parametrize(("window", "strides", "dilations", "padding"), WINDOWS)
def test_convolution(window: Pair, strides: Pair, dilations: Pair, padding: int) -> None:
    x, weights, bias = random(1, 8, 9, 3), random(4, *window, 3, seed=1), random(4, seed=2)
    options = sliding(padding, strides, dilations)
    one("CONV_2D", x, [weights, bias], convolve(x, weights, bias, options), options)


def test_convolution_without_a_bias_and_of_groups() -> None:
    x, weights = random(1, 5, 6, 4), random(6, 3, 3, 2, seed=1)
    expected = convolve(x, weights, np.zeros(6, np.float32), sliding(SAME))
    one("CONV_2D", x, [weights], expected, sliding(SAME))
    one("CONV_2D", x, [weights, None], expected, sliding(SAME))


@pytest.mark.parametrize(("window", "strides", "dilations", "padding"), WINDOWS)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution(window: Pair, strides: Pair, dilations: Pair, padding: int, multiplier: int) -> None:
    x, weights, bias = random(1, 8, 9, 3), random(1, *window, 3 * multiplier, seed=1), random(3 * multiplier, seed=2)
    options = sliding(padding, strides, dilations)
    grouped = weights[0].transpose(2, 0, 1)[..., None]  # output c * multiplier + m sees channel c alone
    expected = convolve(x, grouped, bias, options)
    one("DEPTHWISE_CONV_2D", x, [weights, bias], expected, {**options, "DepthMultiplier": multiplier})


def scatter(x: Floats, weights: Floats, bias: Floats, strides: Pair, origin: Pair, size: Pair) -> Floats:
    """Each value spreads the window into the output; what falls beside it is lost."""
    out = np.zeros((1, *size, len(weights)), np.float32) + bias
    places = itertools.product(*map(range, (*x.shape[1:3], *weights.shape[1:3])))
    for row, column, u, v in places:
        i, j = row * strides[0] - origin[0] + u, column * strides[1] - origin[1] + v
        if 0 <= i < size[0] and 0 <= j < size[1]:
            out[0, i, j] += weights[:, u, v] @ x[0, row, column]
    return out


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("window", "strides", "padding", "size"),
    [
        ((2, 2), (2, 2), SAME, (8, 10)),
        ((3, 3), (2, 2), SAME, (8, 10)),
        ((3, 3), (2, 2), SAME, (7, 9)),
        ((4, 3), (2, 1), SAME, (8, 5)),
        ((3, 3), (2, 2), VALID, (9, 11)),
        ((2, 2), (3, 3), VALID, (12, 14)),  # the last values are out of the window's reach
    ],
)
def test_transposed_convolution(window: Pair, strides: Pair, padding: int, size: Pair, biased: bool) -> None:
    x, weights = random(1, 4, 5, 3), random(2, *window, 3, seed=1)
    bias = random(2, seed=2) if biased else np.zeros(2, np.float32)
    top, left = (axis(size[i], window[i], strides[i], 1, padding)[1] for i in (0, 1))
    expected = scatter(x, weights, bias, strides, (top, left), size)
    shape = np.array([1, *size, 2], np.int32)
    inputs: list[Any] = [shape, weights, "x", *([bias] if biased else [])]
    options = {"Padding": padding, "StrideH": strides[0], "StrideW": strides[1]}
    check([Step("TRANSPOSE_CONV", inputs, "y", expected.shape, options)], x, expected)


@pytest.mark.parametrize(
    ("window", "strides", "padding", "size", "origin"),
    [
        ((2, 2), (2, 2), 1, (8, 9), (0, 0)),  # unlike TRANSPOSE_CONV, an odd length loses its last value
        ((3, 3), (2, 2), 1, (8, 9), (0, 1)),
        ((3, 4), (2, 1), 2, (9, 8), (0, 0)),
    ],
)
def test_mediapipes_transposed_convolution(window: Pair, strides: Pair, padding: int, size: Pair, origin: Pair) -> None:
    x, weights, bias = random(1, 4, 5, 3), random(2, *window, 3, seed=1), random(2, seed=2)
    expected = scatter(x, weights, bias, strides, origin, size)
    options = struct.pack("<5i", padding, strides[1], strides[0], 0, 0)
    step = Step("Convolution2DTransposeBias", ["x", weights, bias], "y", expected.shape, custom=options)
    check([step], x, expected)


@pytest.mark.parametrize(("window", "strides", "dilations", "padding"), [w for w in WINDOWS if w[2] == (1, 1)])
@pytest.mark.parametrize(("kind", "reduce"), [("AVERAGE_POOL_2D", np.mean), ("MAX_POOL_2D", np.max)])
def test_pools_leave_missing_values_out(
    kind: str, reduce: Any, window: Pair, strides: Pair, dilations: Pair, padding: int
) -> None:
    x = random(1, 8, 9, 3)
    found = list(windows(x, window, strides, dilations, padding))
    expected = np.zeros((1, *found[0][0], 3), np.float32)
    for _, (i, j), values in found:
        expected[0, i, j] = reduce([value for _, value in values], axis=0)
    options = {"FilterHeight": window[0], "FilterWidth": window[1]}
    options |= {"Padding": padding, "StrideH": strides[0], "StrideW": strides[1]}
    one(kind, x, [], expected, options)


def test_a_pool_of_everything_is_global() -> None:
    x = random(1, 6, 5, 3)
    options = {"Padding": VALID, "StrideH": 6, "StrideW": 5, "FilterHeight": 6, "FilterWidth": 5}
    expected = x.mean(axis=(1, 2), keepdims=True)
    assert operators(one("AVERAGE_POOL_2D", x, [], expected, options)) == ["GlobalAveragePool"]


def test_weights_in_half_precision_become_float32_without_a_node() -> None:
    x, half = random(1, 4, 5, 3), random(2, 3, 3, 3, seed=1).astype(np.float16)
    expected = convolve(x, half.astype(np.float32), np.zeros(2, np.float32), sliding(SAME))
    steps = [
        Step("DEQUANTIZE", [half], "w", half.shape, version=2),
        Step("CONV_2D", ["x", "w"], "y", expected.shape, sliding(SAME)),
    ]
    assert operators(check(steps, x, expected)) == ["Conv"]
