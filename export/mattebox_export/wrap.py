"""Puts head and tail around a core, so that an artifact takes photos as bytes and gives maps as bytes.

head: uint8 NHWC BGR -> float32 -> NCHW -> RGB -> normalised
tail: output of the core -> size of the photo (bilinear) -> softmax of the kept classes, argmax | probability -> uint8

Head and tail are nodes of the graph, so that they run on the same device as the network. They compute in float32, even
if the core is in fp16. `mattebox_server.spec` describes the artifact's inputs and outputs.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mattebox_export.catalogue import Activation, Normalisation
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.weightless import as_inputs, is_heavy
from mattebox_server.spec import METADATA_KEY, ModelSpec

OPSET = 18
_IR_VERSION = 10
CORE_OUTPUT = "mattebox/resized"  # the core's output at the size of the input, which the parity check compares
RESERVED = ("image", "keep", "foreground", "classes")  # the artifact's own inputs and outputs
_FREE = ("batch", "height", "width")  # names of the image's free lengths, by which the server may fix them
_TINY = 1e-6  # keeps a black photo and a flat map from dividing by zero


@dataclass
class _Graph:
    """The nodes and constants of an artifact that is being built."""

    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    def constant(self, name: str, values: object, dtype: type[np.generic]) -> str:
        name = f"mattebox/{name}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        # ONNX's own helper takes a node's attributes as keywords.
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"mattebox/{op}_{len(self.nodes)}", **attributes))
        return output


def wrap(core: Core, spec: ModelSpec) -> onnx.ModelProto:
    """Builds the artifact: head, core and tail, with the spec in its metadata.

    Args:
        core: the core, as `prepare` returns it.
        spec: description of the artifact.

    Raises:
        ExportError: the core's input or output has the wrong type or shape.
    """
    model = core.model
    (core_input,), core_output = model.graph.input, model.graph.output[0]
    batch, _, height, width = _dimensions(core_input, "input")
    same_size = isinstance(height, int) and _dimensions(core_output, "output")[2:] == [height, width]
    graph = _Graph()
    _head(graph, core.normalisation, core_input.name)
    graph.nodes.extend(model.graph.node)
    if same_size:
        graph.add("Identity", [core_output.name], CORE_OUTPUT)
    else:
        _resize_to_image(graph, core_output.name)
    # Free lengths get the same names in all artifacts, so that the server can fix them.
    named = zip((batch, height, width), _FREE, strict=True)
    shape: list[int | str] = [length if isinstance(length, int) else name for length, name in named]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, [*shape, 3])]
    outputs = [helper.make_tensor_value_info("foreground", TensorProto.UINT8, shape)]
    if spec.kind == "semantic":
        _semantic_tail(graph)
        inputs.append(helper.make_tensor_value_info("keep", TensorProto.FLOAT, [shape[0], len(spec.labels)]))
        outputs.append(helper.make_tensor_value_info("classes", TensorProto.UINT8, shape))
    else:
        _saliency_tail(graph, core.activation)
    # The core's own shapes stay: onnxruntime's CPU provider fuses a residual addition into the convolution before it
    # only where it can see that both have the same, which saves 3 % of a ResNet-101.
    known = shape == [batch, height, width]  # else the core's shapes have other names for these lengths
    shapes = [value for value in model.graph.value_info if known and _is_shaped(value)]
    # The heavy weights come last, because each step before copies the graph.
    heavy = [tensor for tensor in model.graph.initializer if is_heavy(tensor)]
    light = [tensor for tensor in model.graph.initializer if not is_heavy(tensor)]
    whole = helper.make_graph(graph.nodes, spec.name, inputs, outputs, [*light, *graph.constants], value_info=shapes)
    artifact = helper.make_model(whole, opset_imports=model.opset_import, ir_version=_IR_VERSION)
    artifact.producer_name = "mattebox-export"
    describe(artifact, spec)
    _check(artifact, heavy)
    artifact.graph.initializer.extend(heavy)
    return artifact


def _check(artifact: onnx.ModelProto, heavy: list[onnx.TensorProto]) -> None:
    """Checks an artifact whose heavy weights are missing, for which inputs stand meanwhile."""
    inputs = len(artifact.graph.input)
    artifact.graph.input.extend(as_inputs(heavy))
    try:
        onnx.checker.check_model(artifact)  # pyright: ignore[reportUnknownMemberType]
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the core is not valid ONNX: {error}") from error
    del artifact.graph.input[inputs:]


def describe(artifact: onnx.ModelProto, spec: ModelSpec) -> None:
    """Writes the spec into an artifact's metadata, where it replaces any earlier one."""
    helper.set_model_props(artifact, {METADATA_KEY: spec.to_json()})


@contextmanager
def with_core_output(artifact: onnx.ModelProto) -> Generator[onnx.ModelProto]:
    """An artifact that for a while also gives the core's output at the size of the input, float32 (N, C, H, W)."""
    artifact.graph.output.append(helper.make_tensor_value_info(CORE_OUTPUT, TensorProto.FLOAT, None))
    try:
        yield artifact
    finally:
        del artifact.graph.output[-1]


def _is_shaped(value: onnx.ValueInfoProto) -> bool:
    """Whether every dimension has a length or a name."""
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") or d.dim_param for d in tensor.shape.dim)


def _dimensions(value: onnx.ValueInfoProto, what: str) -> list[int | str | None]:
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4:
        dtype = TensorProto.DataType.Name(tensor.elem_type)
        raise ExportError(f"the core's {what} {value.name} must be FLOAT with 4 dimensions, it is {dtype} {dims}")
    return dims


def _head(graph: _Graph, normalisation: Normalisation, output: str) -> None:
    graph.add("Cast", ["image"], "mattebox/float", to=TensorProto.FLOAT)
    graph.add("Transpose", ["mattebox/float"], "mattebox/nchw", perm=[0, 3, 1, 2])
    graph.add("Gather", ["mattebox/nchw", graph.constant("bgr_to_rgb", [2, 1, 0], np.int64)], "mattebox/rgb", axis=1)
    if normalisation.by_maximum:
        axes = graph.constant("image_axes", [1, 2, 3], np.int64)
        graph.add("ReduceMax", ["mattebox/rgb", axes], "mattebox/largest", keepdims=1)
        scale = graph.add("Max", ["mattebox/largest", graph.constant("tiny", _TINY, np.float32)], "mattebox/scale")
    else:
        scale = graph.constant("scale", 255, np.float32)
    graph.add("Div", ["mattebox/rgb", scale], "mattebox/unit")
    mean = graph.constant("mean", np.reshape(normalisation.mean, (1, 3, 1, 1)), np.float32)
    std = graph.constant("std", np.reshape(normalisation.std, (1, 3, 1, 1)), np.float32)
    graph.add("Sub", ["mattebox/unit", mean], "mattebox/centred")
    graph.add("Div", ["mattebox/centred", std], output)


def _resize_to_image(graph: _Graph, core_output: str) -> None:
    """Resizes the core's output as torch's `interpolate(mode="bilinear", align_corners=False)` does."""
    graph.add("Shape", [core_output], "mattebox/batch_channels", start=0, end=2)
    graph.add("Shape", ["image"], "mattebox/height_width", start=1, end=3)
    graph.add("Concat", ["mattebox/batch_channels", "mattebox/height_width"], "mattebox/sizes", axis=0)
    graph.add(
        "Resize",
        [core_output, "", "", "mattebox/sizes"],
        CORE_OUTPUT,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _semantic_tail(graph: _Graph) -> None:
    """Adds the argmax, and the share of the kept classes in the sum of all exponentials.

    The sums over the kept and over all classes are one matrix product, [keep; 1] x exponentials. With 21 classes at
    450x600 that takes 18 ms instead of 121 on onnxruntime's CPU provider, whose Softmax over axis 1 transposes first,
    and 12 instead of 15 on OpenVINO.
    """
    graph.add("ArgMax", [CORE_OUTPUT], "mattebox/argmax", axis=1, keepdims=0)
    graph.add("Cast", ["mattebox/argmax"], "classes", to=TensorProto.UINT8)
    class_axis = graph.constant("class_axis", [1], np.int64)
    graph.add("ReduceMax", [CORE_OUTPUT, class_axis], "mattebox/largest_logit", keepdims=1)
    graph.add("Sub", [CORE_OUTPUT, "mattebox/largest_logit"], "mattebox/shifted_logits")
    graph.add("Exp", ["mattebox/shifted_logits"], "mattebox/powers")
    flat = graph.constant("flat", [0, 0, -1], np.int64)
    graph.add("Reshape", ["mattebox/powers", flat], "mattebox/flat_powers")
    graph.add("Unsqueeze", ["keep", class_axis], "mattebox/keep_row")
    graph.add("Shape", ["mattebox/keep_row"], "mattebox/row_shape")
    one = numpy_helper.from_array(np.ones(1, np.float32))
    graph.add("ConstantOfShape", ["mattebox/row_shape"], "mattebox/ones_row", value=one)
    graph.add("Concat", ["mattebox/keep_row", "mattebox/ones_row"], "mattebox/rows", axis=1)
    graph.add("MatMul", ["mattebox/rows", "mattebox/flat_powers"], "mattebox/sums")
    zeroth, first = graph.constant("zeroth", 0, np.int64), graph.constant("first", 1, np.int64)
    graph.add("Gather", ["mattebox/sums", zeroth], "mattebox/kept", axis=1)
    graph.add("Gather", ["mattebox/sums", first], "mattebox/all", axis=1)
    graph.add("Div", ["mattebox/kept", "mattebox/all"], "mattebox/flat_probability")
    graph.add("Shape", ["classes"], "mattebox/map_shape")
    graph.add("Reshape", ["mattebox/flat_probability", "mattebox/map_shape"], "mattebox/probability")
    _to_bytes(graph)


def _saliency_tail(graph: _Graph, activation: Activation) -> None:
    value = CORE_OUTPUT
    if activation == "sigmoid":
        value = graph.add("Sigmoid", [value], "mattebox/sigmoid")
    elif activation == "minmax":
        axes = graph.constant("map_axes", [1, 2, 3], np.int64)
        low = graph.add("ReduceMin", [value, axes], "mattebox/low", keepdims=1)
        high = graph.add("ReduceMax", [value, axes], "mattebox/high", keepdims=1)
        graph.add("Sub", [high, low], "mattebox/span")
        graph.add("Max", ["mattebox/span", graph.constant("tiny_span", _TINY, np.float32)], "mattebox/safe_span")
        graph.add("Sub", [value, low], "mattebox/shifted")
        value = graph.add("Div", ["mattebox/shifted", "mattebox/safe_span"], "mattebox/stretched")
    graph.add("Squeeze", [value, graph.constant("channel_axis", [1], np.int64)], "mattebox/probability")
    _to_bytes(graph)


def _to_bytes(graph: _Graph) -> None:
    full = graph.constant("full", 255, np.float32)
    zero = graph.constant("zero", 0, np.float32)
    graph.add("Mul", ["mattebox/probability", full], "mattebox/level")
    graph.add("Round", ["mattebox/level"], "mattebox/rounded")
    graph.add("Clip", ["mattebox/rounded", zero, full], "mattebox/clipped")
    graph.add("Cast", ["mattebox/clipped"], "foreground", to=TensorProto.UINT8)
