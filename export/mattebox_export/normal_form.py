"""Brings any network to the form that head, tail and the forms for providers need: ONNX as its standard has it.

Files that people have are looser than the standard, or older than the head and tail, and onnxruntime takes them all the
same: nodes out of order, weights that are constants or stand behind casts, operators that were experiments once.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mattebox_export.errors import ExportError
from mattebox_export.ordering import drop_unused_weights, inner_graphs, sort_nodes
from mattebox_export.weightless import as_inputs, is_heavy, without_weights
from mattebox_export.wrap import OPSET, RESERVED

_STANDARD = ("", "ai.onnx")
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_FIRST_WITH_MODES = 11  # the opset since which Resize says how it finds its places; before, it was one way


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a core in normal form.

    That is: one input beside the weights, nodes in order, ONNX's own operators only, weights as initializers, single
    instead of half precision, opset 18 or newer, and no names that the artifact uses itself.

    Raises:
        ExportError: the core can't be brought to this form.
    """
    if not model.graph.output:
        raise ExportError("the core has no output")
    source, model = model, onnx.ModelProto()
    model.CopyFrom(source)
    model = _inline_functions(model)
    _check_operators(model)
    _keep_photo_input(model)
    sort_nodes(model.graph)
    _constants_to_weights(model.graph)
    _fold_casts(model.graph)
    half = is_half(model.graph)
    if half:
        _widen(model.graph)
    _replace_image_scalers(model.graph)
    model = _raise_opset(model)
    if half:
        _drop_idle_casts(model)
    drop_unused_weights(model.graph)
    _rename(model.graph, {name: f"core/{name}" for name in RESERVED})
    return model


def photo_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a graph that are no weights; older files list their weights as inputs too."""
    weights = {tensor.name for tensor in (*graph.initializer, *(each.values for each in graph.sparse_initializer))}
    return [value for value in graph.input if value.name not in weights]


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    if not len(model.functions):
        return model
    from onnx import inliner  # noqa: PLC0415 - few files have functions

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises whatever its library raises
        raise ExportError(f"the core's functions can't be written out: {error}") from error


def _check_operators(model: onnx.ModelProto) -> None:
    """Refuses operators of other makers, and forgets their opsets, which many files name without a use."""
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in _nodes(model.graph) if node.domain not in _STANDARD})
    if foreign:
        raise ExportError(
            f"the core uses operators that are not ONNX's own: {', '.join(foreign)}; export it again without them,"
            " from a file that no runtime has optimised yet"
        )
    opsets = [opset for opset in model.opset_import if opset.domain in _STANDARD]
    if not opsets or max(opset.version for opset in opsets) == 0:
        raise ExportError("the core doesn't say which opset it uses")
    version = max(opset.version for opset in opsets)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    for node in _nodes(model.graph):
        node.domain = ""


def _keep_photo_input(model: onnx.ModelProto) -> None:
    inputs = photo_inputs(model.graph)
    if len(inputs) != 1:
        raise ExportError(f"the core must have one input, it has {[value.name for value in inputs]}")
    model.ir_version = max(model.ir_version, 4)  # before 4, initializers had to be inputs too
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def _constants_to_weights(graph: onnx.GraphProto) -> None:
    """Turns constants that are tensors into initializers, where quantisation and the forms look for weights."""
    outputs = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = next((each.t for each in node.attribute if each.name == "value" and each.HasField("t")), None)
        if node.op_type == "Constant" and tensor is not None and node.output[0] not in outputs:
            graph.initializer.append(tensor)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _fold_casts(graph: onnx.GraphProto) -> None:
    """Casts weights now that the network would cast in each run, such as fp16 weights that keep a file small."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        before = weights.get(node.input[0]) if node.op_type == "Cast" and node.output[0] not in outputs else None
        to = next((each.i for each in node.attribute if each.name == "to"), 0) if before is not None else 0
        if before is None or before.data_type not in _FLOATS or to not in _FLOATS:
            kept.append(node)
            continue
        cast = numpy_helper.to_array(before).astype(helper.tensor_dtype_to_np_dtype(to))
        weights[node.output[0]] = numpy_helper.from_array(cast, node.output[0])
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
        inner = {name for node in _nodes(graph) for name in node.input} | outputs
        del graph.initializer[:]
        graph.initializer.extend(tensor for name, tensor in weights.items() if name in inner)


def is_half(graph: onnx.GraphProto) -> bool:
    """Whether a network computes in half precision, at least in part."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in _tensors(graph)) or any(
        node.op_type == "Cast" and each.name == "to" and each.i == TensorProto.FLOAT16
        for node in _nodes(graph)
        for each in node.attribute
    )


def _widen(graph: onnx.GraphProto) -> None:
    """Writes a network in half precision in single precision.

    CPUs cast around nearly every operator in half precision: an IS-Net takes 1.68 s so, and 1.40 s in single precision.
    """
    for tensor in _tensors(graph):
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in _nodes(graph):
        for each in node.attribute:
            if each.name in ("to", "dtype") and each.i == TensorProto.FLOAT16:
                each.i = TensorProto.FLOAT
    for part in _graphs(graph):
        for value in (*part.input, *part.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        del part.value_info[:]  # types that are no more


def _drop_idle_casts(model: onnx.ModelProto) -> None:
    """Drops the casts between single and half precision, which cast nothing any more; NNCF stumbles over some."""
    graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    outputs = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    dropped: dict[str, str] = {}
    for node in model.graph.node:
        to = [each.i for each in node.attribute if each.name == "to"] if node.op_type == "Cast" else []
        if not to or types.get(node.input[0]) != to[0]:
            kept.append(node)
        elif node.output[0] in outputs:
            kept.append(helper.make_node("Identity", node.input, node.output, name=node.name))
        else:
            dropped[node.output[0]] = dropped.get(node.input[0], node.input[0])
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _rename(model.graph, dropped)


def _replace_image_scalers(graph: onnx.GraphProto) -> None:
    """Writes ImageScaler, an experiment of old converters that ONNX dropped, as what it is: x * scale + bias."""
    replaced: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if node.op_type != "ImageScaler":
            replaced.append(node)
            continue
        given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        scale = np.asarray(given.get("scale", 1), np.float32)
        bias = np.reshape(np.asarray(given.get("bias", 0), np.float32), (-1, 1, 1))
        names = [f"core/scaler{index}/{part}" for part in ("scale", "bias", "scaled")]
        graph.initializer.extend(numpy_helper.from_array(*pair) for pair in ((scale, names[0]), (bias, names[1])))
        replaced.append(helper.make_node("Mul", [node.input[0], names[0]], [names[2]]))
        replaced.append(helper.make_node("Add", [names[2], names[1]], [node.output[0]]))
    if len(replaced) > len(graph.node):
        del graph.node[:]
        graph.node.extend(replaced)


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Converts an older core to opset 18; its heavy weights don't travel through the converter, which copies much."""
    version = model.opset_import[0].version
    if version >= OPSET:
        return model
    graph = model.graph
    heavy = [tensor for tensor in graph.initializer if is_heavy(tensor)]
    light = [tensor for tensor in graph.initializer if not is_heavy(tensor)]
    names = {tensor.name for tensor in heavy}
    del graph.initializer[:]
    graph.initializer.extend(light)
    graph.input.extend(as_inputs(heavy))
    try:
        raised = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises whatever its adapters raise
        raise ExportError(f"the core can't be converted from opset {version} to {OPSET}: {error}") from error
    inputs = [value for value in raised.graph.input if value.name not in names]
    del raised.graph.input[:]
    raised.graph.input.extend(inputs)
    raised.graph.initializer.extend(heavy)
    if version < _FIRST_WITH_MODES:
        _resize_as_before(raised.graph)
    return raised


def _resize_as_before(graph: onnx.GraphProto) -> None:
    """Tells Resize to find its places as Upsample and the first Resize did; the converter leaves the new default."""
    for node in _nodes(graph):
        if node.op_type == "Resize":
            kept = [
                each for each in node.attribute if each.name not in ("coordinate_transformation_mode", "nearest_mode")
            ]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The weights of a graph and of the graphs inside it, and the constants in the attributes of their nodes."""
    for part in _graphs(graph):
        yield from part.initializer
    for node in _nodes(graph):
        yield from (each.t for each in node.attribute if each.HasField("t"))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, and those of the graphs inside them."""
    for part in _graphs(graph):
        yield from part.node


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Renames values in a graph and in the graphs inside its nodes."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for inner in inner_graphs(node):
            _rename(inner, names)
