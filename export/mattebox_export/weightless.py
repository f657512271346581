"""Graphs without their heavy weights, for steps of onnx that look at shapes only and copy a model several times."""

from collections.abc import Iterable

import onnx
from onnx import helper

_HEAVY_BYTES = 4096


def is_heavy(tensor: onnx.TensorProto) -> bool:
    """Whether a weight is too large to say anything about the shapes of others."""
    return tensor.ByteSize() > _HEAVY_BYTES


def as_inputs(tensors: Iterable[onnx.TensorProto]) -> list[onnx.ValueInfoProto]:
    """Inputs that stand for weights, of which they have name, type and shape."""
    return [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in tensors]


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which inputs stand for the heavy weights."""
    graph = model.graph
    heavy = [tensor for tensor in graph.initializer if is_heavy(tensor)]
    light = [tensor for tensor in graph.initializer if not is_heavy(tensor)]
    inputs = [*graph.input, *as_inputs(heavy)]
    copy = helper.make_graph(graph.node, graph.name, inputs, graph.output, light, value_info=graph.value_info)
    return helper.make_model(copy, opset_imports=model.opset_import, ir_version=model.ir_version)
