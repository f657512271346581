"""Nodes in any order are sorted, and nodes that nothing depends on are dropped."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mattebox_export.errors import ExportError
from mattebox_export.ordering import drop_dead_nodes, sort_nodes, taken

node = helper.make_node
value = helper.make_tensor_value_info


def branch(name: str, op: str) -> onnx.GraphProto:
    """A graph that takes `b` from outside, with its two nodes in the wrong order."""
    nodes = [node(op, [f"{name}/inner"], [f"{name}/out"]), node("Neg", ["b"], [f"{name}/inner"])]
    return helper.make_graph(nodes, name, [], [value(f"{name}/out", TensorProto.FLOAT, [3])])


NODES = [
    node("Add", ["x", "x"], ["a"]),
    node("Mul", ["a", "x"], ["b"]),
    node("Greater", ["big", "x"], ["more"]),
    node("ReduceMin", ["whole"], ["least"], keepdims=0),
    node("Cast", ["more"], ["whole"], to=TensorProto.INT32),
    node("Cast", ["least"], ["condition"], to=TensorProto.BOOL),
    node("If", ["condition"], ["c"], then_branch=branch("yes", "Exp"), else_branch=branch("no", "Abs")),
    node("Abs", ["b"], ["dead"]),
    node("Constant", [], ["big"], value_floats=[9.0]),
    node("Sub", ["c", "a"], ["y"]),
]


def graph_of(nodes: list[onnx.NodeProto], output: str = "y") -> onnx.GraphProto:
    out = [value(output, TensorProto.FLOAT, [3])]
    return helper.make_graph(nodes, "net", [value("x", TensorProto.FLOAT, [3])], out)


def is_sorted(graph: onnx.GraphProto) -> bool:
    given_values = {each.name for each in graph.input}
    for each in graph.node:
        if not taken(each) <= given_values:
            return False
        given_values |= set(each.output)
    return True


@given(st.permutations(range(len(NODES))))
def test_any_order_is_sorted(order: list[int]) -> None:
    graph = graph_of([NODES[index] for index in order])
    sort_nodes(graph)
    assert is_sorted(graph)
    assert sorted(each.output[0] for each in graph.node) == sorted(each.output[0] for each in NODES)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType] - it looks into the branches too
    x = np.array([0.5, -1, 2], np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": x})
    np.testing.assert_allclose(found, np.exp(-2 * x * x) - 2 * x, rtol=1e-6)


def test_a_sorted_graph_stays_as_it_is() -> None:
    graph = graph_of([node("Neg", ["x"], ["z"]), node("Abs", ["x"], ["a"]), node("Add", ["a", "z"], ["y"])])
    before = graph.SerializeToString()
    sort_nodes(graph)
    assert graph.SerializeToString() == before


def test_nodes_in_a_circle_have_no_order() -> None:
    graph = graph_of([node("Neg", ["x"], ["y"]), node("Add", ["q", "x"], ["p"]), node("Neg", ["p"], ["q"])])
    with pytest.raises(ExportError, match="in a circle, at or before Add p"):
        sort_nodes(graph)


def test_two_nodes_with_one_value_are_refused() -> None:
    with pytest.raises(ExportError, match="two of the core's nodes give the value y"):
        sort_nodes(graph_of([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["y"])]))


def test_nodes_that_nothing_depends_on_are_dropped() -> None:
    graph = graph_of(list(NODES))
    sort_nodes(graph)
    drop_dead_nodes(graph)
    assert is_sorted(graph)
    assert {each.output[0] for each in NODES} - {each.output[0] for each in graph.node} == {"dead"}
    other = graph_of(list(NODES), "dead")
    sort_nodes(other)
    drop_dead_nodes(other)
    assert [each.output[0] for each in other.node] == ["a", "b", "dead"]
