"""Artifacts that the exporter wouldn't write: of other precisions, slow ones, and ones that fail or lie."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from conftest import run_export
from mattebox_server.engine import selfcheck
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.spec import METADATA_KEY, Fidelity, ModelSpec, Quantisation

FIDELITY = Fidelity(photos=9, mean_levels=1.0, median_iou=0.99, low_iou=0.9)


def read(model: Path) -> tuple[onnx.ModelProto, ModelSpec]:
    return onnx.load_model_from_string(model.read_bytes()), read_artifact(model).spec


def save(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> Path:
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    path.write_bytes(model.SerializeToString())
    return path


def save_judged(model: Path, path: Path, mean_levels: float) -> Path:
    """Saves an artifact whose bf16 was judged to be so many grey levels from fp32."""
    graph, spec = read(model)
    judged = FIDELITY.model_copy(update={"mean_levels": mean_levels})
    return save(graph, spec.model_copy(update={"bf16": judged}), path)


def save_int8(model: Path, path: Path) -> Path:
    """Saves the colour network with its convolution between Q and DQ, as the exporter quantises networks."""
    graph, spec = read(model)
    (convolution,) = [node for node in graph.graph.node if node.op_type == "Conv"]
    weights = next(w for w in graph.graph.initializer if w.name == convolution.input[1])
    values = numpy_helper.to_array(weights)
    add(
        graph,
        weights_int8=np.round(values / (10 / 127)).astype(np.int8),
        weights_scale=np.array(10 / 127, np.float32),
        weights_zero=np.array(0, np.int8),
        pixels_scale=np.array(1 / 100, np.float32),  # coarse, so that the answer isn't fp32's
        pixels_zero=np.array(0, np.uint8),
    )
    pixels = convolution.input[0]
    nodes = [
        helper.make_node("QuantizeLinear", [pixels, "pixels_scale", "pixels_zero"], ["pixels_int8"]),
        helper.make_node("DequantizeLinear", ["pixels_int8", "pixels_scale", "pixels_zero"], ["pixels_rounded"]),
        helper.make_node("DequantizeLinear", ["weights_int8", "weights_scale", "weights_zero"], ["weights_rounded"]),
    ]
    convolution.input[0], convolution.input[1] = "pixels_rounded", "weights_rounded"
    graph.graph.initializer.remove(weights)
    insert_before(graph, convolution, nodes)
    made = Quantisation(calibration="by hand", float_layers=(), fidelity=FIDELITY)
    spec = spec.model_copy(update={"precision": "int8", "quantisation": made})
    return save(graph, spec.model_copy(update={"expectation": answer_in_float(graph, spec)}), path)


def answer_in_float(graph: onnx.ModelProto, spec: ModelSpec) -> Any:
    """What the graph answers to its check photo if each node is computed as it is written, in float."""
    old = spec.expectation
    assert old is not None
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    photo = selfcheck.synthetic_photo(old.height_px, old.width_px, old.seed)
    keep = np.array([[index in spec.foreground_classes for index in range(len(spec.labels))]], np.float32)
    foreground, classes = session.run(None, {"image": photo[np.newaxis], "keep": keep})
    return selfcheck.expect(old.height_px, old.width_px, old.seed, foreground[0], classes[0])


def save_slow(folder: Path) -> Path:
    """Saves a saliency network of many convolutions, which takes hundreds of milliseconds at 256x256."""
    rng, channels, layers = np.random.default_rng(0), 64, 20
    names = ["pixels", *(f"x{index}" for index in range(layers)), "scores"]
    sizes = [3, *[channels] * layers, 1]
    kernels = [
        (rng.normal(0, 1 / (3 * fan**0.5), (size, fan, 3, 3))).astype(np.float32)
        for fan, size in itertools.pairwise(sizes)
    ]
    nodes = [
        helper.make_node("Conv", [source, f"w{index}"], [result], pads=[1, 1, 1, 1])
        for index, (source, result) in enumerate(itertools.pairwise(names))
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [numpy_helper.from_array(kernel, f"w{index}") for index, kernel in enumerate(kernels)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (folder / "core.onnx").write_bytes(model.SerializeToString())
    options = [
        "--mean",
        "0,0,0",
        "--std",
        "1,1,1",
        "--licence",
        "none",
        "--resize",
        "short_side:64",
        "--activation",
        "none",
    ]
    run_export("custom", "--core", folder / "core.onnx", "--name", "slow", *options, "-o", folder / "slow.onnx")
    return folder / "slow.onnx"


def save_for_one_width(model: Path, path: Path, width: int) -> Path:
    """Saves an artifact whose photo is multiplied by a square matrix of this side, the identity."""
    graph, spec = read(model)
    add(graph, identity=np.eye(width, dtype=np.float32))
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["columns_last"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["columns_last", "identity"], ["same"]),
        helper.make_node("Transpose", ["same"], ["columns_back"], perm=[0, 1, 3, 2]),
        helper.make_node("Cast", ["columns_back"], ["image_again"], to=TensorProto.UINT8),
    ]
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name == "image":
                node.input[index] = "image_again"
    insert_before(graph, graph.graph.node[0], nodes)
    return save(graph, spec, path)


def save_cut(model: Path, path: Path, start: int) -> Path:
    """Saves an artifact whose foreground is there twice, side by side, and then cut off before this column."""
    graph, spec = read(model)
    add(graph, start=np.array([start]), end=np.array([10_000]), across=np.array([2]))
    for node in graph.graph.node:
        for index, name in enumerate(node.output):
            if name == "foreground":
                node.output[index] = "whole"
    graph.graph.node.append(helper.make_node("Concat", ["whole", "whole"], ["twice"], axis=2))
    graph.graph.node.append(helper.make_node("Slice", ["twice", "start", "end", "across"], ["foreground"]))
    for value in graph.graph.output:
        if value.name == "foreground":
            value.type.tensor_type.shape.dim[2].dim_param = "cut"
    return save(graph, spec, path)


def save_with_spec_of(graph: Path, spec: Path, path: Path) -> Path:
    """Saves one artifact's graph with another one's spec."""
    return save(read(graph)[0], read(spec)[1], path)


def save_with_expectation_of(model: Path, other: Path, path: Path) -> Path:
    """Saves an artifact that expects another network's answer, with classes that it never gives."""
    graph, spec = read(model)
    (old, new) = (spec.expectation, read(other)[1].expectation)
    assert old is not None
    assert new is not None
    return save(graph, spec.model_copy(update={"expectation": new.model_copy(update={"classes": old.classes})}), path)


def save_inverted(model: Path, path: Path) -> Path:
    """Saves the colour network with its weights in another order, and the answer that belongs to them."""
    graph, spec = read(model)
    for weights in graph.graph.initializer:
        if list(weights.dims) == [4, 3, 1, 1]:
            weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[::-1].copy(), weights.name))
    return save(graph, spec.model_copy(update={"expectation": answer_in_float(graph, spec)}), path)


def save_with_double_keep(model: Path, path: Path) -> Path:
    """Saves an artifact that wants `keep` as float64."""
    graph, spec = read(model)
    for value in graph.graph.input:
        if value.name == "keep":
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name == "keep":
                node.input[index] = "keep_single"
    cast = helper.make_node("Cast", ["keep"], ["keep_single"], to=TensorProto.FLOAT)
    insert_before(graph, graph.graph.node[0], [cast])
    return save(graph, spec, path)


def save_with_unknown_operation(model: Path, path: Path) -> Path:
    """Saves an artifact with a node that no runtime knows."""
    graph, spec = read(model)
    graph.graph.node[-1].op_type = "Pray"
    return save(graph, spec, path)


def add(model: onnx.ModelProto, **arrays: Any) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())


def insert_before(model: onnx.ModelProto, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
    index = list(model.graph.node).index(node)
    for new in reversed(nodes):
        model.graph.node.insert(index, new)
