"""The operators that slide a window over an activation: convolutions, transposed convolutions, pools."""

import struct
from dataclasses import dataclass

import numpy as np

from mattebox_export.tflite.graph import TO_NCHW, Graph
from mattebox_export.tflite.reader import Operator

_SAME, _VALID = 0, 1  # of the schema
_CUSTOM_PADDING = {1: _SAME, 2: _VALID}  # of TfLiteTransposeConvParams, which custom operators hold


@dataclass(frozen=True)
class _Axis:
    """A window along one axis: the output's length, and the number of values that are missing on both sides."""

    length: int
    before: int
    after: int


def convolution(graph: Graph, op: Operator) -> None:
    """CONV_2D, also of groups: weights (out, h, w, in of a group)."""
    biased = graph.count(op, 2, 3) == 3
    batch, height, width, channels = graph.shape(op, 0, 4)
    out, rows, columns, inner = graph.shape(op, 1, 4)
    if channels % inner or out % (channels // inner):
        op.refuse(f"weights of {inner} to {out} channels don't fit an input of {channels}")
    y, x = _slide(op, height, rows, "H"), _slide(op, width, columns, "W")
    weights = graph.constant(op, 1, np.float32).transpose(TO_NCHW)
    inputs = [graph.activation(op, 0), graph.weight(op, "weights", weights), *_bias(graph, op, out, biased)]
    attributes = _attributes(op, (rows, columns), y, x)
    value = graph.node(op, "Conv", inputs, **attributes, dilations=_dilations(op), group=channels // inner)
    graph.finish(op, value, (batch, y.length, x.length, out))


def depthwise(graph: Graph, op: Operator) -> None:
    """DEPTHWISE_CONV_2D: weights (1, h, w, channels * multiplier)."""
    biased = graph.count(op, 2, 3) == 3
    batch, height, width, channels = graph.shape(op, 0, 4)
    one, rows, columns, out = graph.shape(op, 1, 4)
    if one != 1 or out != channels * op.options["DepthMultiplier"]:
        op.refuse(f"weights {[one, rows, columns, out]} don't fit an input of {channels} channels")
    y, x = _slide(op, height, rows, "H"), _slide(op, width, columns, "W")
    weights = graph.constant(op, 1, np.float32).transpose(3, 0, 1, 2)
    inputs = [graph.activation(op, 0), graph.weight(op, "weights", weights), *_bias(graph, op, out, biased)]
    attributes = _attributes(op, (rows, columns), y, x)
    value = graph.node(op, "Conv", inputs, **attributes, dilations=_dilations(op), group=channels)
    graph.finish(op, value, (batch, y.length, x.length, out))


def transposed(graph: Graph, op: Operator) -> None:
    """TRANSPOSE_CONV: the output's shape, weights (out, h, w, in), the input, perhaps a bias.

    Its padding is that of the convolution that would lead from the output back to the input.
    """
    biased = graph.count(op, 3, 4) == 4
    batch, _, _, _ = graph.shape(op, 2, 4)
    out, rows, columns, _ = graph.shape(op, 1, 4)
    asked = graph.constant(op, 0, np.int32).tolist()
    if graph.shape(op, 0, 1) != (4,) or asked != [batch, asked[1], asked[2], out] or min(asked) < 1:
        op.refuse(f"it asks for the output shape {asked}")
    y = _slide(op, asked[1], rows, "H", dilation=1)
    x = _slide(op, asked[2], columns, "W", dilation=1)
    axes = (_Axis(asked[1], y.before, y.after), _Axis(asked[2], x.before, x.after))
    _transpose(graph, op, (2, 1, 3 if biased else None), (int(op.options["StrideH"]), int(op.options["StrideW"])), axes)


def transposed_with_bias(graph: Graph, op: Operator) -> None:
    """Convolution2DTransposeBias, an operator of MediaPipe: the input, weights (out, h, w, in), a bias.

    Its output has the length (in - 1) * stride + window, less the padding. See transpose_conv_bias.cc in MediaPipe.
    """
    graph.count(op, 3, 3)
    if len(op.custom_options) < 12:
        op.refuse(f"its options have {len(op.custom_options)} bytes, they must have at least 12")
    padding, stride_x, stride_y = struct.unpack_from("<3i", op.custom_options)
    if padding not in _CUSTOM_PADDING or min(stride_x, stride_y) < 1:
        op.refuse(f"the padding number {padding} with strides of {stride_y} and {stride_x} can't be imported")
    _, height, width, _ = graph.shape(op, 0, 4)
    _, rows, columns, _ = graph.shape(op, 1, 4)
    axes: list[_Axis] = []
    for length, window, stride in ((height, rows, stride_y), (width, columns, stride_x)):
        lost = max(0, window - (length - 1) % stride - 1) if _CUSTOM_PADDING[padding] == _SAME else 0
        axes.append(_Axis(stride * (length - 1) + window - lost, lost // 2, lost - lost // 2))
    _transpose(graph, op, (0, 1, 2), (stride_y, stride_x), (axes[0], axes[1]))


def average_pool(graph: Graph, op: Operator) -> None:
    """AVERAGE_POOL_2D, which leaves missing values out of the average."""
    graph.count(op, 1, 1)
    rows, columns = _pool_window(op)
    if graph.shape(op, 0, 4)[1:3] == (rows, columns) and op.options["Padding"] == _VALID:
        batch, _, _, channels = graph.shape(op, 0)
        graph.finish(op, graph.node(op, "GlobalAveragePool", [graph.activation(op, 0)]), (batch, 1, 1, channels))
    else:
        _pool(graph, op, "AveragePool")


def max_pool(graph: Graph, op: Operator) -> None:
    """MAX_POOL_2D, which leaves missing values out."""
    _pool(graph, op, "MaxPool")


def _pool(graph: Graph, op: Operator, onnx_type: str) -> None:
    graph.count(op, 1, 1)
    batch, height, width, channels = graph.shape(op, 0, 4)
    rows, columns = _pool_window(op)
    y, x = _slide(op, height, rows, "H", dilation=1), _slide(op, width, columns, "W", dilation=1)
    value = graph.node(op, onnx_type, [graph.activation(op, 0)], **_attributes(op, (rows, columns), y, x))
    graph.finish(op, value, (batch, y.length, x.length, channels))


def _pool_window(op: Operator) -> tuple[int, int]:
    return int(op.options["FilterHeight"]), int(op.options["FilterWidth"])


def _slide(op: Operator, length: int, window: int, axis: str, dilation: int | None = None) -> _Axis:
    """The output's length along one axis, and the padding as TFLite counts it: the odd value is missing at the end."""
    stride = int(op.options[f"Stride{axis}"])
    dilation = int(op.options[f"Dilation{axis}Factor"]) if dilation is None else dilation
    padding = op.options["Padding"]
    if min(stride, dilation, window) < 1 or padding not in (_SAME, _VALID):
        op.refuse(f"window {window}, stride {stride}, dilation {dilation}, padding number {padding} can't be imported")
    reach = (window - 1) * dilation + 1
    if padding == _VALID:
        if reach > length:
            op.refuse(f"a window of {reach} doesn't fit a length of {length}")
        return _Axis((length - reach) // stride + 1, 0, 0)
    out = -(-length // stride)
    missing = max(0, (out - 1) * stride + reach - length)
    return _Axis(out, missing // 2, missing - missing // 2)


def _dilations(op: Operator) -> list[int]:
    return [int(op.options["DilationHFactor"]), int(op.options["DilationWFactor"])]


def _attributes(op: Operator, window: tuple[int, int], y: _Axis, x: _Axis) -> dict[str, list[int]]:
    return {
        "kernel_shape": list(window),
        "strides": [int(op.options["StrideH"]), int(op.options["StrideW"])],
        "pads": [y.before, x.before, y.after, x.after],
    }


def _bias(graph: Graph, op: Operator, channels: int, biased: bool, place: int = 2) -> list[str]:
    if not biased:
        return []
    bias = graph.constant(op, place, np.float32)
    if bias.shape != (channels,):
        op.refuse(f"a bias {list(bias.shape)} doesn't fit {channels} channels")
    return [graph.weight(op, "bias", bias)]


def _transpose(
    graph: Graph,
    op: Operator,
    places: tuple[int, int, int | None],
    strides: tuple[int, int],
    axes: tuple[_Axis, _Axis],
) -> None:
    """Adds a transposed convolution.

    Args:
        graph: the graph.
        op: the operator.
        places: places of input, weights and bias among the operator's inputs.
        strides: steps of the window in the output, along height and width.
        axes: lengths of the output, and the values before its first one that are cut off.
    """
    source, weighing, biasing = places
    batch, *lengths, channels = graph.shape(op, source, 4)
    out, *window, inner = graph.shape(op, weighing, 4)
    if inner != channels:
        op.refuse(f"weights of {inner} channels don't fit an input of {channels}")
    # What the window reaches behind the last value of the output: cut off, or missing if it is negative.
    behind = [
        (length - 1) * stride + size - axis.before - axis.length
        for length, stride, size, axis in zip(lengths, strides, window, axes, strict=True)
    ]
    if any(-rest >= stride for rest, stride in zip(behind, strides, strict=True)):
        op.refuse(f"an output of {[axis.length for axis in axes]} is too large for an input of {lengths}")
    weights = graph.constant(op, weighing, np.float32).transpose(3, 0, 1, 2)
    bias = [] if biasing is None else _bias(graph, op, out, True, biasing)
    value = graph.node(
        op,
        "ConvTranspose",
        [graph.activation(op, source), graph.weight(op, "weights", weights), *bias],
        kernel_shape=window,
        strides=list(strides),
        pads=[axes[0].before, axes[1].before, max(0, behind[0]), max(0, behind[1])],
        output_padding=[max(0, -rest) for rest in behind],
    )
    graph.finish(op, value, (batch, axes[0].length, axes[1].length, out))
