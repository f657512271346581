"""The operators without a window: values one by one, sums over axes, shapes, sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mattebox_export.tflite.graph import TO_NCHW, TO_NHWC, Graph
from mattebox_export.tflite.reader import Operator

_NCHW_AXIS = (0, 2, 3, 1)  # where an axis of (N, H, W, C) lies in (N, C, H, W)
_ARITHMETIC = {"ADD": "Add", "MUL": "Mul", "SUB": "Sub"}
_FUNCTIONS = {"LOGISTIC": "Sigmoid", "HARD_SWISH": "HardSwish"}


def dequantize(graph: Graph, op: Operator) -> None:
    """DEQUANTIZE of weights in half precision, which become float32 here and now."""
    graph.count(op, 1, 1)
    halves = graph.constant(op, 0, np.float16)
    if graph.output_shape(op) != halves.shape or op.outputs[0] in (*graph.names, *graph.constants):
        op.refuse("its output has another shape than its input, or a value already")
    graph.hold(op, halves)
    graph.constants[op.outputs[0]] = halves.astype(np.float32)


def arithmetic(graph: Graph, op: Operator) -> None:
    """ADD, MUL and SUB of two activations, or of one and a constant; lengths of 1 are repeated."""
    graph.count(op, 2, 2)
    shapes = [graph.shape(op, place) for place in (0, 1)]
    rank = max(map(len, shapes))
    inputs: list[str] = []
    for place in (0, 1):
        if graph.is_constant(op, place) and not graph.is_constant(op, 1 - place):
            inputs.append(graph.weight(op, "constant", _aligned(graph.constant(op, place, np.float32), rank)))
        elif len(shapes[place]) == rank:
            inputs.append(graph.activation(op, place))
        else:
            op.refuse(f"activations of the shapes {shapes} can't be combined")
    graph.finish(op, graph.node(op, _ARITHMETIC[op.kind], inputs), _together(op, shapes))


def prelu(graph: Graph, op: Operator) -> None:
    """PRELU with constant slopes."""
    graph.count(op, 2, 2)
    shape = graph.shape(op, 0)
    if _together(op, [shape, graph.shape(op, 1)]) != shape:
        op.refuse(f"slopes {list(graph.shape(op, 1))} don't fit an input {list(shape)}")
    slopes = _aligned(graph.constant(op, 1, np.float32), len(shape))
    value = graph.node(op, "PRelu", [graph.activation(op, 0), graph.weight(op, "slopes", slopes)])
    graph.finish(op, value, shape)


def function(graph: Graph, op: Operator) -> None:
    """LOGISTIC and HARD_SWISH."""
    graph.count(op, 1, 1)
    graph.finish(op, graph.node(op, _FUNCTIONS[op.kind], [graph.activation(op, 0)]), graph.shape(op, 0))


def activation(graph: Graph, op: Operator) -> None:
    """RELU, RELU6, RELU_N1_TO_1 and TANH as operators of their own."""
    graph.count(op, 1, 1)
    graph.finish(op, graph.activate(op, op.kind, graph.activation(op, 0)), graph.shape(op, 0))


def softmax(graph: Graph, op: Operator) -> None:
    """SOFTMAX over the last axis, of values multiplied by beta."""
    graph.count(op, 1, 1)
    shape, value = graph.shape(op, 0), graph.activation(op, 0)
    if len(shape) < 2:
        op.refuse(f"an input {list(shape)} can't be imported")
    if op.options["Beta"] != 1:
        value = graph.node(op, "Mul", [value, graph.weight(op, "beta", np.array(op.options["Beta"], np.float32))])
    graph.finish(op, graph.node(op, "Softmax", [value], axis=_axis(-1, shape)), shape)


def mean(graph: Graph, op: Operator) -> None:
    """MEAN over constant axes."""
    graph.count(op, 2, 2)
    shape = graph.shape(op, 0)
    given = graph.constant(op, 1, np.int32).reshape(-1).tolist()
    axes = sorted({axis % len(shape) for axis in given if -len(shape) <= axis < len(shape)})
    if not axes or len(axes) != len(given):
        op.refuse(f"the axes {given} of an input {list(shape)} can't be imported")
    keep = bool(op.options["KeepDims"])
    left = [axis for axis in range(len(shape)) if axis not in axes]
    nchw = [_axis(axis, shape) for axis in left]
    if not keep and nchw != sorted(nchw):
        op.refuse(f"the axes {given} without KeepDims can't be imported")
    graph.fixed_batch |= 0 in axes
    value = graph.activation(op, 0)
    if keep and len(shape) == 4 and axes == [1, 2]:
        value = graph.node(op, "GlobalAveragePool", [value])
    else:
        reduced = np.array(sorted(_axis(axis, shape) for axis in axes), np.int64)
        value = graph.node(op, "ReduceMean", [value, graph.weight(op, "axes", reduced)], keepdims=int(keep))
    kept = [1 if axis in axes else length for axis, length in enumerate(shape)]
    graph.finish(op, value, kept if keep else [shape[axis] for axis in left])


def concatenation(graph: Graph, op: Operator) -> None:
    """CONCATENATION of activations."""
    places = range(graph.count(op, 1, len(op.inputs)))
    shapes = [graph.shape(op, place) for place in places]
    axis = int(op.options["Axis"])
    if not -len(shapes[0]) <= axis < len(shapes[0]):
        op.refuse(f"an input {list(shapes[0])} has no axis {axis}")
    axis %= len(shapes[0])
    if len({(*shape[:axis], *shape[axis + 1 :], len(shape)) for shape in shapes}) != 1:
        op.refuse(f"inputs of the shapes {shapes} can't be joined along the axis {axis}")
    value = graph.node(op, "Concat", [graph.activation(op, place) for place in places], axis=_axis(axis, shapes[0]))
    joined = sum(shape[axis] for shape in shapes)
    graph.finish(op, value, (*shapes[0][:axis], joined, *shapes[0][axis + 1 :]))


def pad(graph: Graph, op: Operator) -> None:
    """PAD with zeros, by a constant (dimensions, 2) of numbers before and behind."""
    graph.count(op, 2, 2)
    shape, pads = graph.shape(op, 0), graph.constant(op, 1, np.int32, np.int64)
    if pads.shape != (len(shape), 2) or pads.min() < 0 or pads.max() > 1 << 20:
        op.refuse(f"the numbers {pads.tolist()} don't fit an input {list(shape)}")
    order = TO_NCHW if len(shape) == 4 else range(len(shape))
    numbers = graph.weight(op, "pads", pads[list(order)].T.reshape(-1).astype(np.int64))
    value = graph.node(op, "Pad", [graph.activation(op, 0), numbers])
    graph.finish(op, value, [int(length + before + after) for length, (before, after) in zip(shape, pads, strict=True)])


def reshape(graph: Graph, op: Operator) -> None:
    """RESHAPE to the shape that the file declares for the output."""
    count = graph.count(op, 1, 2)
    old, new = graph.shape(op, 0), graph.output_shape(op)
    wished = graph.constant(op, 1, np.int32).reshape(-1).tolist() if count == 2 else list(new)
    fits = len(wished) == len(new) and all(wish in (-1, length) for wish, length in zip(wished, new, strict=True))
    if not fits or np.prod(old) != np.prod(new):
        op.refuse(f"an input {list(old)} can't get the shape {wished}, as which the file declares {list(new)}")
    value = graph.activation(op, 0)
    if not _same_order(old):
        value = graph.node(op, "Transpose", [value], perm=TO_NHWC)
    graph.fixed_batch |= new[:1] != (1,)
    target = [new[i] for i in TO_NCHW] if len(new) == 4 and _same_order(new) else list(new)
    if not graph.fixed_batch:
        target[0] = 0  # the input's, whatever it is
    value = graph.node(op, "Reshape", [value, graph.weight(op, "shape", np.array(target, np.int64))])
    if not _same_order(new):
        value = graph.node(op, "Transpose", [value], perm=TO_NCHW)
    graph.finish(op, value, new)


def fully_connected(graph: Graph, op: Operator) -> None:
    """FULLY_CONNECTED: weights (out, in), over all values of a photo or over the channels of each pixel."""
    biased = graph.count(op, 2, 3) == 3
    shape, (out, inner) = graph.shape(op, 0), graph.shape(op, 1, 2)
    weights = graph.constant(op, 1, np.float32)
    bias = [graph.weight(op, "bias", graph.constant(op, 2, np.float32))] if biased else []
    if biased and graph.shape(op, 2) != (out,):
        op.refuse(f"a bias {list(graph.shape(op, 2))} doesn't fit {out} channels")
    if op.options["WeightsFormat"] != 0:
        op.refuse("its weights are in an order of their own, which can't be imported")
    value = graph.activation(op, 0)
    if op.options["KeepNumDims"] and len(shape) == 4 and shape[3] == inner:
        value = graph.node(op, "Conv", [value, graph.weight(op, "weights", weights[..., None, None]), *bias])
        graph.finish(op, value, (*shape[:3], out))
    elif len(shape) in (2, 4) and np.prod(shape[1:]) == inner and not (op.options["KeepNumDims"] and len(shape) == 4):
        if not _same_order(shape):
            value = graph.node(op, "Transpose", [value], perm=TO_NHWC)
        value = graph.node(op, "Flatten", [value]) if len(shape) == 4 else value
        value = graph.node(op, "Gemm", [value, graph.weight(op, "weights", weights), *bias], transB=1)
        graph.finish(op, value, (shape[0], out))
    else:
        op.refuse(f"weights of {inner} to {out} values don't fit an input {list(shape)}")


def resize(graph: Graph, op: Operator) -> None:
    """RESIZE_BILINEAR to a constant size."""
    graph.count(op, 2, 2)
    batch, height, width, channels = graph.shape(op, 0, 4)
    size = graph.constant(op, 1, np.int32).tolist()
    corners, half = bool(op.options["AlignCorners"]), bool(op.options["HalfPixelCenters"])
    if graph.shape(op, 1, 1) != (2,) or min(size) < 1 or (corners and half):
        op.refuse(f"a size {size} with AlignCorners {corners} and HalfPixelCenters {half} can't be imported")
    coordinates = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    scales = np.array([1, 1, _scale(height, size[0]), _scale(width, size[1])], np.float32)
    value = graph.node(
        op,
        "Resize",
        [graph.activation(op, 0), "", graph.weight(op, "scales", scales)],
        mode="linear",
        coordinate_transformation_mode=coordinates,
    )
    graph.finish(op, value, (batch, *size, channels))


def _scale(old: int, new: int) -> np.float32:
    """The factor from one length to another, rounded up, because ONNX rounds the product down.

    The new length itself would need the batch beside it, or axes, which not every runtime knows.
    """
    scale = np.float32(new / old)
    return scale if float(scale) * old >= new else np.nextafter(scale, np.float32(np.inf))


def _axis(axis: int, shape: Sequence[int]) -> int:
    """The place in the ONNX graph of an axis of TFLite's."""
    return _NCHW_AXIS[axis] if len(shape) == 4 else axis % len(shape)


def _aligned(values: NDArray[Any], rank: int) -> NDArray[Any]:
    """A constant as it is combined with an activation of so many dimensions."""
    values = values.reshape((1,) * (rank - values.ndim) + values.shape)
    return values.transpose(TO_NCHW) if rank == 4 else values


def _together(op: Operator, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return op.refuse(f"inputs of the shapes {[list(shape) for shape in shapes]} can't be combined")


def _same_order(shape: Sequence[int]) -> bool:
    """Whether the values of an activation lie in the same order in both layouts."""
    return len(shape) != 4 or shape[3] == 1 or shape[1] * shape[2] == 1
