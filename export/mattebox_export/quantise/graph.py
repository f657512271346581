"""Builds quantised graphs: QuantizeLinear and DequantizeLinear around what computes in int8 (QDQ form).

onnxruntime, OpenVINO and TensorRT all take this form, and compute in int8 what stands between the pairs. Weights are
symmetric with one scale for each output channel, activations have one scale for each tensor, biases stay in float.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mattebox_export.errors import ExportError
from mattebox_export.ordering import drop_unused_weights
from mattebox_export.quantise.table import Int8

_WEIGHT_AXES: dict[str, Callable[[onnx.NodeProto, int], int]] = {
    "Conv": lambda _node, _dims: 0,
    "ConvTranspose": lambda _node, _dims: 1,
    "MatMul": lambda _node, dims: dims - 1,
    "Gemm": lambda node, _dims: 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1,
}
"""The axis of a node's weights along which its output channels lie, by operator."""

_SIZES = frozenset({"Shape", "Size"})  # their results say nothing about the values
_MOVING = frozenset({"Concat", "MaxPool", "Resize"})
_INT8_MAX, _UINT8_MAX = 127, 255


def weight_axis(node: onnx.NodeProto, dims: int) -> int:
    """The axis along which the output channels of a layer's weights lie, which have `dims` dimensions."""
    return _WEIGHT_AXES[node.op_type](node, dims)


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that multiply by constant weights, in the order of the graph."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in _WEIGHT_AXES and node.input[1] in weights]


def outer_layers(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the first layers, which see the photo itself, and of the last ones, whose values are the answer."""
    graph = model.graph
    all_layers = {node.name for node in layers(model)}
    from_photo, first = {graph.input[0].name}, set[str]()
    nodes = [node for node in graph.node if node.op_type not in _SIZES]
    for node in nodes:
        if from_photo.intersection(node.input):
            if node.name in all_layers:
                first.add(node.name)
            else:
                from_photo.update(node.output)
    to_answer, last = {graph.output[0].name}, set[str]()
    for node in reversed(nodes):
        if to_answer.intersection(node.output):
            if node.name in all_layers:
                last.add(node.name)
            else:
                to_answer.update(node.input)
    return frozenset(first | last)


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which every node has a name of its own."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_of_{node.output[0]}_{index}"
        taken.add(node.name)
    return named


def quantise(model: onnx.ModelProto, int8: Int8) -> onnx.ModelProto:
    """Builds the int8 form of a core.

    Args:
        model: the core in fp32, with named nodes; it stays as it is.
        int8: ranges, corrected biases and the layers that stay in float.

    Raises:
        ExportError: the table names values or nodes that the core doesn't have.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    values = {name for node in model.graph.node for name in node.output} | {model.graph.input[0].name}
    unknown = sorted(int8.ranges.keys() - values)
    unknown += sorted({*int8.float_layers, *int8.biases} - {node.name for node in model.graph.node})
    if unknown:
        raise ExportError(f"the calibration table is for another graph: this one has no {', '.join(unknown[:3])}")
    _Quantiser(quantised.graph, int8, _passed_on(model, int8.ranges)).run()
    return quantised


def _passed_on(model: onnx.ModelProto, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The ranges, and those of the results of nodes that only move values which have ranges.

    onnxruntime's CPU provider computes a convolution in int8 only with a pair of quantisers right before and behind it:
    with these U2-Net-p takes half the time there. OpenVINO finds pairs farther away, and takes the same time.
    """
    found = dict(ranges)
    for node in model.graph.node:
        sources = node.input if node.op_type == "Concat" else node.input[:1]
        if node.op_type in _MOVING and node.output[0] not in found and all(name in found for name in sources):
            found[node.output[0]] = min(found[name][0] for name in sources), max(found[name][1] for name in sources)
    return found


@dataclass
class _Quantiser:
    """Rewrites one graph in place."""

    graph: onnx.GraphProto
    int8: Int8
    ranges: dict[str, tuple[float, float]]
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    dequantised: dict[str, str] = field(default_factory=dict[str, str])

    def run(self) -> None:
        weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self._quantise_activation(self.graph.input[0].name)
        for node in list(self.graph.node):
            if node.op_type in _WEIGHT_AXES and node.input[1] in weights and node.name not in self.int8.float_layers:
                self._quantise_weights(node, numpy_helper.to_array(weights[node.input[1]]))
            if node.name not in self.int8.float_layers:
                node.input[:] = [self.dequantised.get(name, name) for name in node.input]
            self.nodes.append(node)
            for name in node.output:
                self._quantise_activation(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        drop_unused_weights(self.graph)
        del self.graph.value_info[:]

    def _quantise_activation(self, name: str) -> None:
        if name not in self.ranges:
            return
        scale, zero_point = activation_scale(*self.ranges[name], self.int8.symmetric)
        constants = [self._constant(f"{name}/scale", scale), self._constant(f"{name}/zero_point", zero_point)]
        pair = f"{name}/int8", f"{name}/float"
        self.nodes.append(helper.make_node("QuantizeLinear", [name, *constants], [pair[0]], name=f"{name}/quantise"))
        self.nodes.append(helper.make_node("DequantizeLinear", [pair[0], *constants], [pair[1]], name=f"{name}/back"))
        self.dequantised[name] = pair[1]

    def _quantise_weights(self, node: onnx.NodeProto, weights: NDArray[np.float32]) -> None:
        axis = weight_axis(node, weights.ndim)
        values, scales = quantise_weights(weights, axis)
        name = f"{node.name}/weights"
        # The zero points could be left out, but onnxruntime's option for processors without VNNI needs them.
        parts = ("int8", values), ("scale", scales), ("zero_point", np.zeros(scales.shape, np.int8))
        constants = [self._constant(f"{name}/{part}", value) for part, value in parts]
        self.nodes.append(helper.make_node("DequantizeLinear", constants, [name], name=f"{name}/back", axis=axis))
        node.input[1] = name
        bias = self.int8.bias(node.name)
        if bias is not None:
            del node.input[2:]
            node.input.append(self._constant(f"{node.name}/bias", bias))

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name


def quantise_weights(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounds weights to int8, with one scale for each channel along an axis.

    Returns:
        int8 weights, -127 to 127, in the same shape, and the scales float32 (C,), by which they are multiplied back.
    """
    others = tuple(index for index in range(weights.ndim) if index != axis)
    scales = np.abs(weights).max(axis=others, keepdims=True) / _INT8_MAX
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales.ravel()


def activation_scale(low: float, high: float, symmetric: bool) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Scale, float32 (), and zero point, int8 () or uint8 (), of an activation between two values.

    The range is widened to hold 0, which must be exact, because padding is 0. An asymmetric range is rounded so that
    its zero point is a whole number.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return _positive(max(-low, high) / _INT8_MAX), np.array(0, np.int8)
    scale = _positive((high - low) / _UINT8_MAX)
    return scale, np.array(round(-low / float(scale)), np.uint8)


def _positive(scale: float) -> NDArray[np.float32]:
    """A scale as float32 (); 1 if that would be 0, as with an activation that is always 0."""
    return np.array(np.float32(scale) or 1, np.float32)
