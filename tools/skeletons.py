"""Writes the graphs of torchvision's networks without weights into the package. `make skeletons` runs it.

torch exports each network twice: as it is, which says where its batch norms are, and optimised, which folds them into
the convolutions and simplifies the rest. The skeleton is the optimised graph with its batch norms put back, because
they can only be folded once there are weights.
"""

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from mattebox_export.torchvision_core import RANDOM, build_network, export_program
from mattebox_export.wrap import OPSET

NAMES = ("deeplabv3_resnet101", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large")
FOLDER = Path(__file__).parents[1] / "export" / "mattebox_export" / "skeletons"
_CLASSES = 21
_IR_VERSION = 10


def make_skeleton(name: str) -> onnx.ModelProto:
    """Makes the skeleton of a network of torchvision, by its name in the catalogue."""
    network = build_network(name, RANDOM, _CLASSES)
    state = network.state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)  # because torch's exporter makes one of weights that are equal
    program = export_program(network)
    norms = _norms(program.model_proto)
    program.optimize()
    graph = program.model_proto.graph
    nodes = _unfolded(graph, norms)
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used - state.keys()]
    places = [_place(name, tuple(value.shape)) for name, value in state.items() if name in used]
    inputs, outputs = _plain(graph.input), _plain(graph.output)
    shapes = _plain(value for value in graph.value_info if value.name in {node.output[0] for node in nodes})
    skeleton = helper.make_graph(nodes, name, inputs, outputs, [*constants, *places], value_info=shapes)
    return helper.make_model(skeleton, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)


def _norms(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The batch norms behind convolutions, by the names of the convolutions' weights."""
    kernels = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    return {kernels[node.input[0]]: node for node in model.graph.node if node.op_type == "BatchNormalization"}


def _unfolded(graph: onnx.GraphProto, norms: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes of an optimised graph with their batch norms, without what torch notes about each."""
    nodes: list[onnx.NodeProto] = []
    for optimised in graph.node:
        node = onnx.NodeProto(name=optimised.name, op_type=optimised.op_type)
        node.input.extend(optimised.input)
        node.output.extend(optimised.output)
        node.attribute.extend(optimised.attribute)
        nodes.append(node)
        norm = norms.get(node.input[1]) if node.op_type == "Conv" else None
        if norm is not None:
            del node.input[2:]
            node.output[0] = f"{optimised.output[0]}_before_norm"
            after = onnx.NodeProto(name=f"{node.name}_norm", op_type=norm.op_type)
            after.input.extend([node.output[0], *norm.input[1:]])
            after.output.extend(optimised.output)
            after.attribute.extend(attribute for attribute in norm.attribute if attribute.name == "epsilon")
            nodes.append(after)
    return nodes


def _place(name: str, shape: tuple[int, ...]) -> TensorProto:
    place = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    place.external_data.add(key="location", value="weights")  # ONNX asks for one
    return place


def _plain(values: Iterable[onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    return [onnx.ValueInfoProto(name=value.name, type=value.type) for value in values]


def save(skeleton: onnx.ModelProto, folder: Path) -> Path:
    """Writes a skeleton, always the same bytes for the same graph."""
    path = folder / f"{skeleton.graph.name}.onnx.gz"
    path.write_bytes(gzip.compress(skeleton.SerializeToString(deterministic=True), mtime=0))
    return path


def main() -> None:
    """Writes all skeletons into the package."""
    for name in NAMES:
        path = save(make_skeleton(name), FOLDER)
        print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
