"""The two ends of a user's network: how the float32 NCHW photo becomes what it takes, and what it gives a map.

Each end is known twice: in numpy, for the run of the file as it was given, and as nodes, for the artifact.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mattebox_export.catalogue import Layout

INPUT_TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}
_LAST_TO_FIRST, _FIRST_TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_LEAST = 1e-6  # probabilities below count as this one, which is far below half a grey level


@dataclass(frozen=True)
class Taking:
    """What a network takes.

    Args:
        name: name of its input.
        type: the input's element type, a key of `INPUT_TYPES`.
        layout: order of its dimensions.
        batch: 1 if it takes one photo at a time; None if it takes any number.
        height: height of the photo in pixels; None if it takes any.
        width: width of the photo in pixels; None if it takes any.
    """

    name: str
    type: int
    layout: Layout
    batch: int | None
    height: int | None
    width: int | None

    def feed(self, photo: NDArray[np.float32]) -> NDArray[np.generic]:
        """The network's input of photos float32 (N, 3, H, W), already normalised; bytes are float32 0 to 255 here."""
        array = photo.transpose(_FIRST_TO_LAST) if self.layout == "nhwc" else photo
        if self.type == TensorProto.UINT8:
            array = np.clip(np.rint(array), 0, 255)
        return np.ascontiguousarray(array.astype(INPUT_TYPES[self.type]))


@dataclass(frozen=True)
class Giving:
    """What a network gives.

    Args:
        name: name of the output that is used.
        missing: axes that the output lacks to be (N, C, h, w) or (N, h, w, C).
        layout: order of its dimensions, once these are there.
        probabilities: whether its classes are probabilities already, of which the artifact takes the logarithm.
    """

    name: str
    missing: tuple[int, ...]
    layout: Layout
    probabilities: bool = False

    def read(self, output: NDArray[np.generic]) -> NDArray[np.float32]:
        """The maps float32 (N, C, h, w) in the network's output."""
        array = np.expand_dims(output.astype(np.float32), self.missing)
        if self.layout == "nhwc":
            array = array.transpose(_LAST_TO_FIRST)
        if self.probabilities:
            array = np.log(np.maximum(array, np.float32(_LEAST)))
        return np.ascontiguousarray(array)


def with_ends(model: onnx.ModelProto, taking: Taking, giving: Giving, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Gives a network, in place, an input float32 (N, 3, H, W), and one output float32 (N, C, h, w).

    Args:
        model: the network in normal form.
        taking: what it takes.
        giving: what it gives.
        shape: shape of the maps of a photo, (N, C, h, w).
    """
    graph = model.graph
    sides = [taking.height, taking.width]
    before = _before(taking)
    start = before[0].input[0] if before else graph.input[0].name
    batch = taking.batch or "batch"
    # A name of its own for each free length: some files have one name for two of them.
    dims = [batch, 3, *(side or name for side, name in zip(sides, ("height", "width"), strict=True))]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(start, TensorProto.FLOAT, dims))
    (output,) = (value for value in graph.output if value.name == giving.name)
    after, constants = _after(giving, output.type.tensor_type.elem_type)
    end = after[-1].output[0] if after else giving.name
    del graph.output[:]
    fixed = [length if None not in sides else None for length in shape[2:]]
    graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, [batch, shape[1], *fixed]))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    return model


def _before(taking: Taking) -> list[onnx.NodeProto]:
    """The nodes from the photo to the network's input."""
    steps: list[tuple[str, dict[str, object]]] = []
    if taking.layout == "nhwc":
        steps.append(("Transpose", {"perm": _FIRST_TO_LAST}))
    if taking.type == TensorProto.UINT8:
        steps.append(("Round", {}))
    if taking.type != TensorProto.FLOAT:
        steps.append(("Cast", {"to": taking.type}))
    names = [*(f"core/photo/{index}" for index in range(len(steps))), taking.name]
    return [_node(op, [names[i]], names[i + 1], given) for i, (op, given) in enumerate(steps)]


def _after(giving: Giving, elem_type: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes from the network's output to its maps, and their constants."""
    constants: list[onnx.TensorProto] = []
    steps: list[tuple[str, list[str], dict[str, object]]] = []
    if elem_type != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if giving.missing:
        constants.append(numpy_helper.from_array(np.asarray(giving.missing, np.int64), "core/maps/axes"))
        steps.append(("Unsqueeze", ["core/maps/axes"], {}))
    if giving.layout == "nhwc":
        steps.append(("Transpose", [], {"perm": _LAST_TO_FIRST}))
    if giving.probabilities:
        constants.append(numpy_helper.from_array(np.asarray(_LEAST, np.float32), "core/maps/least"))
        steps += [("Max", ["core/maps/least"], {}), ("Log", [], {})]
    names = [giving.name, *(f"core/maps/{index}" for index in range(len(steps)))]
    nodes = [_node(op, [names[i], *more], names[i + 1], given) for i, (op, more, given) in enumerate(steps)]
    return nodes, constants


def _node(op: str, inputs: list[str], output: str, attributes: dict[str, object]) -> onnx.NodeProto:
    node = helper.make_node(op, inputs, [output])
    node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
    return node
