"""The ONNX graph that is made of a TFLite file.

TFLite's activations are (N, H, W, C). The ONNX graph holds those of four dimensions as (N, C, H, W), and all others as
they are, so that no operator but RESHAPE has to move values. Shapes in this package are TFLite's, unless a name says
NCHW.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mattebox_export.errors import ExportError
from mattebox_export.tflite.reader import Operator, TfliteFile

TO_NCHW = (0, 3, 1, 2)
TO_NHWC = (0, 2, 3, 1)
BATCH = "batch"
_MOST_BYTES = (1 << 31) - 1
_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
}
_ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH"}
_CLIPS = {"RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}


@dataclass
class Graph:
    """An ONNX graph that is being built of a file.

    Args:
        file: the TFLite file.
        nodes: the nodes so far.
        weights: the constants of the nodes so far.
        constants: values that are known without a photo, by the file's index of their tensor.
        names: names of the activations that are computed so far, by the file's index of their tensor.
        fixed_batch: whether an operator works across photos, so that only the file's own batch, 1, is possible.
        held_bytes: size of the constants that were copied out of the file.
    """

    file: TfliteFile
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict[str, NDArray[np.generic]])
    constants: dict[int, NDArray[Any]] = field(default_factory=dict[int, NDArray[Any]])
    names: dict[int, str] = field(default_factory=dict[int, str])
    fixed_batch: bool = False
    held_bytes: int = 0

    def name_of(self, tensor: int) -> str:
        """The name of an activation: the file's own for the graph's inputs and outputs."""
        own = self.file.tensors[tensor].name if tensor in (*self.file.inputs, *self.file.outputs) else ""
        return own or f"value_{tensor}"

    def count(self, op: Operator, least: int, most: int) -> int:
        """The number of an operator's inputs, without those left out at the end."""
        given = len(op.inputs)
        while given and op.inputs[given - 1] == -1:
            given -= 1
        if not least <= given <= most or -1 in op.inputs[:given]:
            op.refuse(f"it has the inputs {list(op.inputs)}, it must have {least} to {most}")
        return given

    def activation(self, op: Operator, place: int) -> str:
        """The name of an operator's input that depends on the photo."""
        tensor = op.inputs[place]
        if tensor in self.names:
            return self.names[tensor]
        known = self.is_constant(op, place)
        return op.refuse(f"its input {place} {'is constant' if known else 'is not computed before it'}")

    def is_constant(self, op: Operator, place: int) -> bool:
        """Whether an operator's input is known without a photo."""
        return op.inputs[place] in self.constants

    def constant(self, op: Operator, place: int, *dtypes: type[np.generic]) -> NDArray[Any]:
        """An operator's input that is known without a photo, of one of the given types."""
        found = self.constants.get(op.inputs[place])
        if found is None:
            op.refuse(f"its input {place} must be a constant")
        if found.dtype.type not in dtypes:
            op.refuse(f"its input {place} has the type {found.dtype}, which can't be imported")
        return found

    def shape(self, op: Operator, place: int, rank: int | None = None) -> tuple[int, ...]:
        """The shape of an operator's input, which must have so many dimensions."""
        shape = self.file.tensors[op.inputs[place]].shape
        if rank is not None and len(shape) != rank:
            op.refuse(f"its input {place} must have {rank} dimensions, it has the shape {list(shape)}")
        return shape

    def output_shape(self, op: Operator) -> tuple[int, ...]:
        """The shape that the file declares for an operator's only output."""
        if len(op.outputs) != 1:
            op.refuse(f"it has {len(op.outputs)} outputs, it must have one")
        return self.file.tensors[op.outputs[0]].shape

    def weight(self, op: Operator, what: str, values: NDArray[Any]) -> str:
        """Adds a constant of a node; returns its name."""
        name = f"{what}_{op.index}"
        self.weights[name] = values.copy()
        self.hold(op, values)
        return name

    def hold(self, op: Operator, values: NDArray[Any]) -> None:
        """Counts the bytes of a copy of the file's constants, of which a damaged file may ask for thousands."""
        self.held_bytes += values.nbytes
        if self.held_bytes > _MOST_BYTES:
            op.refuse(f"the weights so far have more than {_MOST_BYTES} bytes, which ONNX can't hold")

    def node(self, op: Operator, onnx_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node whose value only the same operator uses; returns the value's name."""
        name = f"{op.kind}_{op.index}_{onnx_type}_{len(self.nodes)}"
        # ONNX's own helper takes a node's attributes as keywords.
        self.nodes.append(helper.make_node(onnx_type, inputs, [name], name=name, **attributes))
        return name

    def finish(self, op: Operator, value: str, shape: Sequence[int]) -> None:
        """Makes a value the operator's output, behind the activation that is fused into the operator.

        Args:
            op: the operator.
            value: name of the last of its nodes' values.
            shape: the output's shape as it follows from the inputs and the options.
        """
        declared, tensor = self.output_shape(op), op.outputs[0]
        if tuple(shape) != declared:
            op.refuse(f"its output has the shape {list(shape)}, the file says {list(declared)}")
        if self.file.tensors[tensor].type != "FLOAT32":
            op.refuse(f"its output is {self.file.tensors[tensor].type}, only FLOAT32 can be imported")
        if tensor in self.names or tensor in self.constants:
            op.refuse("its output has a value already")
        if not shape or shape[0] != 1:
            self.fixed_batch = True
        number = int(op.options.get("FusedActivationFunction", 0))
        if number not in _ACTIVATIONS:
            op.refuse(f"the fused activation function number {number} can't be imported")
        self.names[tensor] = self.name_of(tensor)
        if number:
            self.activate(op, _ACTIVATIONS[number], value)
        self.nodes[-1].output[0] = self.names[tensor]

    def activate(self, op: Operator, function: str, value: str) -> str:
        """Adds an activation function, by the schema's name for it."""
        if function in _CLIPS:
            bounds = [self.weight(op, f"clip_{bound}", np.array(bound, np.float32)) for bound in _CLIPS[function]]
            return self.node(op, "Clip", [value, *bounds])
        return self.node(op, "Relu" if function == "RELU" else "Tanh", [value])


def start(file: TfliteFile) -> Graph:
    """A graph that knows the file's input and constants.

    Raises:
        ExportError: the file doesn't have one input (1, H, W, C) in float32, or holds a constant that can't be read.
    """
    if len(file.inputs) != 1:
        raise ExportError(f"the TFLite file has {len(file.inputs)} inputs, only files with one can be imported")
    given = file.tensors[file.inputs[0]]
    if given.type != "FLOAT32" or len(given.shape) != 4 or given.shape[0] != 1 or given.data is not None:
        raise ExportError(
            f"the TFLite file's input {given.name} must be FLOAT32 (1, H, W, C), it is {given.type} {list(given.shape)}"
        )
    graph = Graph(file)
    graph.names[file.inputs[0]] = graph.name_of(file.inputs[0])
    for index, tensor in enumerate(file.tensors):
        if tensor.data is None:
            continue
        dtype = _DTYPES.get(tensor.type)
        if dtype is None:
            raise ExportError(f"the TFLite file's tensor {tensor.name} is {tensor.type}, which can't be imported")
        if len(tensor.data) != np.prod(tensor.shape, dtype=int) * dtype.itemsize:
            form = f"{tensor.type} {list(tensor.shape)}"
            raise ExportError(f"the TFLite file's tensor {tensor.name}, {form}, has {len(tensor.data)} bytes")
        graph.constants[index] = tensor.data.view(dtype).reshape(tensor.shape)
    return graph


def finish(graph: Graph) -> onnx.ModelProto:
    """The whole graph as ONNX, with the shapes of all its activations."""
    outputs = graph.file.outputs
    for tensor in outputs:
        if tensor not in graph.names or tensor in graph.file.inputs:
            raise ExportError(f"no operator computes the TFLite file's output {graph.file.tensors[tensor].name}")
    infos = {tensor: _info(graph, tensor) for tensor in graph.names}
    ends = (*graph.file.inputs, *outputs)
    body = helper.make_graph(
        graph.nodes,
        "tflite",
        [infos[tensor] for tensor in graph.file.inputs],
        [infos[tensor] for tensor in outputs],
        [numpy_helper.from_array(values, name) for name, values in graph.weights.items()],
        value_info=[info for tensor, info in infos.items() if tensor not in ends],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _info(graph: Graph, tensor: int) -> onnx.ValueInfoProto:
    shape: list[int | str] = list(graph.file.tensors[tensor].shape)
    if shape and not graph.fixed_batch:
        shape[0] = BATCH
    if len(shape) == 4:
        shape = [shape[i] for i in TO_NCHW]
    return helper.make_tensor_value_info(graph.names[tensor], TensorProto.FLOAT, shape)
