"""Files that can't be imported: each is refused by an ExportError that names the reason."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mattebox_export.errors import ExportError
from mattebox_export.tflite.importer import import_tflite
from tflite_files import File, Step

SHAPE = (1, 4, 5, 3)
CONV = {"Padding": 0, "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
POOL = {"Padding": 0, "StrideH": 1, "StrideW": 1, "FilterHeight": 2, "FilterWidth": 2}


def floats(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def integers(*values: int) -> Any:
    return np.array(values, np.int32)


def step(kind: str, *constants: Any, options: Mapping[str, Any] | None = None, **fields: Any) -> Step:
    return Step(kind, ["x", *constants], "y", fields.pop("shape", SHAPE), options or {}, **fields)


def refused(steps: list[Step], says: str, changes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    with pytest.raises(ExportError, match=says):
        import_tflite(File(steps, SHAPE, changes=changes).data)


MEDIAPIPE = "Convolution2DTransposeBias"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (step("FLOOR"), "operator 0, FLOOR: this operator can't be imported"),
        (step("MaxUnpooling2D", custom=b""), "operator 0, MaxUnpooling2D: this custom operator can't"),
        (step("ADD", custom=b""), "ADD: this custom operator"),
        (step("RELU", version=4), "RELU: version 4 can't be imported, only 1 to 3"),
        (step("RELU", version=0), "version 0"),
        (step("RELU", floats(1)), "RELU: it has the inputs"),
        (step("CONV_2D", options=CONV), "it has the inputs"),
        (step("CONV_2D", None, floats(3), options=CONV), "it has the inputs"),
        (step("RELU", shape=(1, 4, 5, 4)), r"its output has the shape \[1, 4, 5, 3\], the file says \[1, 4, 5, 4\]"),
        (step("CONV_2D", "x", options=CONV), "its input 1 must be a constant"),
        (step("CONV_2D", floats(3, 1, 1, 2), options=CONV), "weights of 2 to 3 channels don't fit an input of 3"),
        (step("CONV_2D", floats(3, 1, 1, 3), floats(2), options=CONV), "a bias .2. doesn't fit 3 channels"),
        (step("CONV_2D", floats(3, 1, 3), options=CONV), "must have 4 dimensions"),
        (step("CONV_2D", floats(3, 1, 1, 3)), "stride 0"),
        (step("CONV_2D", floats(3, 1, 1, 3), options={**CONV, "Padding": 2}), "padding number 2"),
        (step("CONV_2D", floats(3, 9, 1, 3), options={**CONV, "Padding": 1}), "a window of 9 doesn't fit"),
        (step("CONV_2D", floats(3, 1, 1, 3), options={**CONV, "FusedActivationFunction": 5}), "function number 5"),
        (step("CONV_2D", floats(3, 1, 1, 3).astype(np.float16), options=CONV), "has the type float16"),
        (step("CONV_2D", floats(3, 1, 1, 3).astype(np.int8), options=CONV), "is INT8, which can't be imported"),
        (step("DEPTHWISE_CONV_2D", floats(1, 1, 1, 6), options={**CONV, "DepthMultiplier": 1}), "don't fit an input"),
        (step("MAX_POOL_2D", options={**POOL, "FilterWidth": 0}), "window 0"),
        (step("ADD", floats(4)), "can't be combined"),
        (step("ADD", floats(1, 1, 1, 1, 3)), "can't be combined"),
        (step("PRELU", floats(2, 4, 5, 3)), "slopes .2, 4, 5, 3. don't fit"),
        (step("PRELU", floats(1, 1, 1, 1, 3)), "slopes .* don't fit"),
        (step("PRELU", "x"), "its input 1 must be a constant"),
        (step("MEAN", integers(4)), "axes .4."),
        (step("MEAN", integers(1, 1)), "axes .1, 1."),
        (step("MEAN", integers(1)), "without KeepDims"),
        (step("CONCATENATION", "x", options={"Axis": 4}), "has no axis 4"),
        (step("CONCATENATION", floats(1, 4, 5, 3), options={"Axis": 3}), "its input 1 is constant"),
        (step("CONCATENATION", floats(1, 4, 6, 3), options={"Axis": 3}), "can't be joined"),
        (step("PAD", integers(0, 0)), "don't fit an input"),
        (step("PAD", np.array([[0, 0], [0, 0], [0, -1], [0, 0]], np.int32)), "don't fit an input"),
        (step("RESHAPE", integers(1, 60), shape=(1, 61)), "can't get the shape"),
        (step("RESHAPE", integers(1, 50), shape=(1, 60)), "can't get the shape"),
        (step("FULLY_CONNECTED", floats(2, 7), shape=(1, 2)), "weights of 7 to 2 values don't fit"),
        (step("FULLY_CONNECTED", floats(2, 60), options={"WeightsFormat": 1}, shape=(1, 2)), "an order of their own"),
        (step("RESIZE_BILINEAR", integers(8)), "a size .8."),
        (step("RESIZE_BILINEAR", integers(0, 1)), "a size .0, 1."),
        (
            step("RESIZE_BILINEAR", integers(8, 8), options={"AlignCorners": True, "HalfPixelCenters": True}),
            "AlignCorners True and HalfPixelCenters True",
        ),
        (step("DEQUANTIZE"), "its input 0 must be a constant"),
        (step(MEDIAPIPE, floats(1, 2, 2, 3), floats(1), custom=b"1234"), "4 bytes"),
        (step(MEDIAPIPE, floats(1, 2, 2, 3), floats(1), custom=struct.pack("<3i", 0, 2, 2)), "padding number 0"),
        (step(MEDIAPIPE, floats(1, 2, 2, 3), floats(1), custom=struct.pack("<3i", 1, 0, 2)), "strides of 2 and 0"),
        (step(MEDIAPIPE, floats(1, 2, 2, 4), floats(1), custom=struct.pack("<3i", 1, 2, 2)), "weights of 4 channels"),
    ],
)
def test_operators_that_cannot_be_imported(wrong: Step, says: str) -> None:
    refused([wrong], says)


@pytest.mark.parametrize(
    ("asked", "stride", "says"),
    [
        ((1, 9, 10, 1), 2, "output of .9, 10. is too large"),
        ((2, 8, 10, 1), 2, "asks for the output shape"),
        ((1, 8, 10), 2, "asks for the output shape|must have"),
    ],
)
def test_transposed_convolutions_that_do_not_fit(asked: tuple[int, ...], stride: int, says: str) -> None:
    options = {"Padding": 1, "StrideH": stride, "StrideW": stride}
    inputs = [np.array(asked, np.int32), floats(1, 1, 1, 3), "x"]
    refused([Step("TRANSPOSE_CONV", inputs, "y", (1, *asked[1:3], 1), options)], says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Model": {"Version": 2}}, "version 2 of the format"),
        ({"Tensor x": {"Type": 9}}, "input x must be FLOAT32 .1, H, W, C., it is INT8"),
        ({"Tensor y": {"Type": 9}}, "its output is INT8"),
        ({"Tensor y": {"Type": 77}}, "its output is number 77"),
        ({"Tensor y": {"IsVariable": True}}, "tensor y keeps a state"),
        ({"Tensor y": {"Buffer": 99}}, "buffer 99, which isn't there"),
        ({"Operator y": {"OpcodeIndex": 5}}, "damaged"),
        ({"Operator y": {"BuiltinOptionsType": 1}}, "it has Conv2DOptions instead of AddOptions"),
    ],
)
def test_files_of_another_form(changes: Mapping[str, Mapping[str, Any]], says: str) -> None:
    refused([step("ADD", floats(3))], says, changes)


def test_an_input_of_two_photos() -> None:
    with pytest.raises(ExportError, match=r"must be FLOAT32 \(1, H, W, C\), it is FLOAT32 \[2, 4, 5, 3\]"):
        import_tflite(File([Step("RELU", ["x"], "y", (2, 4, 5, 3))], (2, 4, 5, 3)).data)


@pytest.mark.parametrize("shape", [(1, 0, 5, 3), (1, -1, 5, 3), (1, 1 << 20, 1 << 20, 3), (1,) * 9])
def test_sizes_that_are_free_or_absurd(shape: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match=r"no fixed shape|too large|9 dimensions"):
        import_tflite(File([Step("RELU", ["x"], "y", shape)], shape).data)


def test_weights_of_another_size_than_their_shape() -> None:
    data = File([step("ADD", floats(3))], SHAPE).data
    assert data.count(struct.pack("<2i", 12, 0x3F800000)) == 1  # the length of the weights in bytes, and the first
    with pytest.raises(ExportError, match=r"FLOAT32 \[3\], has 8 bytes"):
        import_tflite(data.replace(struct.pack("<2i", 12, 0x3F800000), struct.pack("<2i", 8, 0x3F800000)))


@pytest.mark.parametrize("data", [b"", b"TFL3", b"<html>not found</html>", b"\x08\x07\x12\x07pytorch"])
def test_files_that_are_no_tflite(data: bytes) -> None:
    with pytest.raises(ExportError, match="no TFLite file"):
        import_tflite(data)


def test_operators_in_the_wrong_order() -> None:
    steps = [Step("RELU", ["z"], "y", SHAPE), Step("TANH", ["x"], "z", SHAPE)]
    refused(steps, "operator 0, RELU: its input 0 is not computed before it")


def test_an_output_that_is_the_input() -> None:
    data = File([step("RELU")], SHAPE, outputs=["x"]).data
    with pytest.raises(ExportError, match="no operator computes the TFLite file's output x"):
        import_tflite(data)


def test_a_value_that_is_computed_twice() -> None:
    refused([step("RELU"), step("TANH")], "operator 1, TANH: its output has a value already")


WHOLE = File(
    [
        Step("DEQUANTIZE", [floats(4, 3, 3, 3).astype(np.float16)], "w", (4, 3, 3, 3)),
        Step("CONV_2D", ["x", "w", floats(4)], "c", (1, 4, 5, 4), {**CONV, "FusedActivationFunction": 3}),
        Step("MEAN", ["c", integers(1, 2)], "m", (1, 1, 1, 4), {"KeepDims": True}),
        Step("MUL", ["c", "m"], "p", (1, 4, 5, 4)),
        Step("RESIZE_BILINEAR", ["p", integers(8, 9)], "r", (1, 8, 9, 4), {"HalfPixelCenters": True}),
        Step(MEDIAPIPE, ["r", floats(1, 2, 2, 4), floats(1)], "t", (1, 16, 17, 1), custom=struct.pack("<3i", 1, 2, 2)),
        Step("PAD", ["t", np.array([[0, 0], [0, 1], [0, 0], [0, 0]], np.int32)], "d", (1, 17, 17, 1)),
        Step("RESHAPE", ["d", integers(1, -1)], "f", (1, 289)),
        Step("FULLY_CONNECTED", ["f", floats(2, 289)], "g", (1, 2)),
        Step("SOFTMAX", ["g"], "s", (1, 2), {"Beta": 1.0}),
    ],
    SHAPE,
).data


def graph_or_error(data: bytes) -> None:
    try:
        model = import_tflite(data)
    except ExportError:
        return
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]


def test_the_file_that_is_damaged_below_is_whole() -> None:
    assert len(import_tflite(WHOLE).graph.node) == 10


@given(st.integers(0, len(WHOLE)))
def test_a_truncated_file_is_refused_or_imported(length: int) -> None:
    graph_or_error(WHOLE[:length])


# Zeros, ones, and small and large numbers: lengths, offsets, indices and options of another kind.
NUMBERS = st.one_of(st.integers(0, 255).map(lambda v: bytes([v])), st.sampled_from([-1, 0, 1, 1 << 16, 1 << 30]).map(
    lambda v: struct.pack("<i", v)
))  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.integers(8, len(WHOLE) - 4), NUMBERS), min_size=1, max_size=4))
def test_a_damaged_file_is_refused_or_imported(damages: list[tuple[int, bytes]]) -> None:
    data = bytearray(WHOLE)
    for place, number in damages:
        data[place : place + len(number)] = number
    graph_or_error(bytes(data))
