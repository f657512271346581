"""Which nodes of a graph have no kernel in onnxruntime's CUDA provider, by its published table.

The CPU provider runs such nodes, and their inputs and outputs are copied between the two devices. `cuda_kernels.json`
holds the facts of the table for the operators that artifacts have, and says which version it is of. For each kernel it
has the versions of the operator (`since` to `until`) and the types of each type variable. A node is matched with them
by the rule of onnxruntime's own `KernelRegistry`.

A network with an operator that `cuda_kernels.json` doesn't have needs its rows of the published table.

onnxruntime may run a node on the CPU although it has a kernel: it prefers the CPU for arithmetic on shapes.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

_ONNX = ("", "ai.onnx")  # both names of ONNX's own domain


@dataclass(frozen=True)
class _Kernel:
    """One kernel of an operator.

    Args:
        since: first version of the operator that it runs.
        until: last version that it runs; None if it was registered without one.
        types: types that it takes, by the operator's type variable or by the name of an input.
    """

    since: int
    until: int | None
    types: dict[str, frozenset[str]]

    def runs(self, version: int) -> bool:
        """Whether it runs this version of the operator. Without an end it runs the first one only.

        onnxruntime can't know whether such a kernel does what a newer version of the operator asks for.
        """
        return version == self.since or (self.until is not None and self.since <= version <= self.until)


def missing_kernels(model: onnx.ModelProto) -> list[str]:
    """Finds the nodes that have no kernel in onnxruntime's CUDA provider.

    Constants are left out, because onnxruntime turns them into weights while it loads a graph.

    Returns:
        A line for each such node: its name, its operator with the version, and its types.
    """
    version = next(opset.version for opset in model.opset_import if opset.domain in _ONNX)
    types = _types(model)
    missing: list[str] = []
    for node in model.graph.node:
        name, op = node.name or node.output[0], node.op_type
        if op == "Constant":
            continue
        if node.domain not in _ONNX or op not in _kernels():
            missing.append(f"{name}: {op} has no CUDA kernel")
            continue
        schema = onnx.defs.get_schema(op, version, "")
        used = list(_used_types(node, schema, types))
        if not any(kernel.runs(schema.since_version) and _takes(kernel, used) for kernel in _kernels()[op]):
            said = dict.fromkeys(f"{variable} = {dtype}" for variable, _, dtype in used)
            missing.append(f"{name}: {op}-{schema.since_version} has no CUDA kernel for {', '.join(said)}")
    return missing


@functools.cache
def _kernels() -> dict[str, list[_Kernel]]:
    table = json.loads(Path(__file__).with_suffix(".json").read_text())["kernels"]
    return {
        op: [
            _Kernel(
                row["since"], row["until"], {name: frozenset(types.split()) for name, types in row["types"].items()}
            )
            for row in rows
        ]
        for op, rows in table.items()
    }


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """The type of each value of a graph, such as uint8, as far as ONNX can infer it."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: TensorProto.DataType.Name(dtype).lower() for name, dtype in found.items()}


def _used_types(
    node: onnx.NodeProto, schema: onnx.defs.OpSchema, types: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    """The type variable, the formal name and the type of each input and output of a node."""
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            formal = formals[min(index, len(formals) - 1)]  # the last one may stand for many
            if name:
                yield formal.type_str, formal.name, types.get(name, "unknown")


def _takes(kernel: _Kernel, used: list[tuple[str, str, str]]) -> bool:
    """Whether a kernel takes all types of a node; it takes any where the table names none."""
    return all(
        dtype in allowed
        for variable, name, dtype in used
        for constraint, allowed in kernel.types.items()
        if constraint in (variable, name)
    )
