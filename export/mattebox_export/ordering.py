"""The order of a graph's nodes: each after those whose values it takes, and none whose values nobody takes."""

import heapq
from collections import defaultdict

import onnx

from mattebox_export.errors import ExportError


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sorts the nodes of a graph, and of the graphs inside its nodes; nodes keep their order where they may.

    ONNX asks for this order and its checker insists on it, but onnxruntime runs files without it, and people have them.

    Raises:
        ExportError: nodes wait for each other in a circle, or two nodes give the same value.
    """
    for node in graph.node:
        for inner in inner_graphs(node):
            sort_nodes(inner)
    makers = _makers(graph)
    sources = [{makers[name] for name in taken(node) if name in makers} for node in graph.node]
    order = _order(sources)
    if len(order) < len(sources):
        stuck = graph.node[min(set(range(len(sources))) - set(order))]
        raise ExportError(f"the core's nodes wait for each other in a circle, at or before {_describe(stuck)}")
    if order != sorted(order):
        nodes = [graph.node[index] for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _order(sources: list[set[int]]) -> list[int]:
    """The smallest order in which each index comes after its sources; those in a circle are left out."""
    takers: dict[int, list[int]] = defaultdict(list)
    for index, each in enumerate(sources):
        for source in each:
            takers[source].append(index)
    waits = [len(each) for each in sources]
    ready = [index for index, count in enumerate(waits) if count == 0]  # sorted, so it is a heap
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for taker in takers[order[-1]]:
            waits[taker] -= 1
            if waits[taker] == 0:
                heapq.heappush(ready, taker)
    return order


def drop_dead_nodes(graph: onnx.GraphProto) -> None:
    """Deletes the nodes of a sorted graph on which none of its outputs depends."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= taken(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(reversed(kept))


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Deletes the weights of nodes that were rewritten, and of outputs that were cut off."""
    used = {name for node in graph.node for name in taken(node)} | {value.name for value in graph.output}
    kept = [weights for weights in graph.initializer if weights.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def taken(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node takes, also those that its inner graphs take from outside."""
    names = {name for name in node.input if name}
    for inner in inner_graphs(node):
        own = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
        own |= {name for each in inner.node for name in each.output}
        names |= {name for each in inner.node for name in taken(each)} - own
        names |= {value.name for value in inner.output} - own
    return names


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node, such as the branches of an If."""
    return [graph for each in node.attribute for graph in ([each.g] if each.HasField("g") else each.graphs)]


def _makers(graph: onnx.GraphProto) -> dict[str, int]:
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name in makers:
                raise ExportError(f"two of the core's nodes give the value {name}")
            if name:
                makers[name] = index
    return makers


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"
