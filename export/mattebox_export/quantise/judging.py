"""The gate: how near a reduced precision comes to fp32 on photos."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mattebox_server.engine.selfcheck import expect, synthetic_photo
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import Expectation, Fidelity, ModelSpec

_SUBJECT_LEVEL = 128  # from this foreground on a pixel belongs to the subject
_LOW_PERCENTILE = 5
_EXACT_IN_BF16 = frozenset(
    {"Constant", "Relu", "MaxPool", "Concat", "Identity", "Reshape", "Transpose", "Slice", "Pad"}
)


def foregrounds(artifact: onnx.ModelProto, spec: ModelSpec, photos: Sequence[Pixels]) -> list[Pixels]:
    """Runs an artifact on photos uint8 (h, w, 3) BGR, with every class kept but the background.

    Everything is computed in float, also what stands between quantisers, so that the answers don't depend on the
    int8 instructions of this processor.

    Returns:
        The foreground of each photo, uint8 (h, w).
    """
    session = float_session(artifact)
    return [run(session, spec, photo)["foreground"] for photo in photos]


def float_session(artifact: onnx.ModelProto) -> ort.InferenceSession:
    """A session of an artifact on onnxruntime's CPU provider that fuses no nodes."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(artifact.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, spec: ModelSpec, photo: Pixels) -> dict[str, Pixels]:
    """The maps uint8 (h, w) of a photo uint8 (h, w, 3) BGR, by the names of the artifact's outputs."""
    feeds: dict[str, NDArray[np.generic]] = {"image": photo[np.newaxis]}
    if spec.kind == "semantic":
        keep = np.zeros((1, len(spec.labels)), np.float32)
        keep[0, sorted(spec.foreground_classes)] = 1
        feeds["keep"] = keep
    names = [output.name for output in session.get_outputs()]
    return {name: output[0] for name, output in zip(names, session.run(names, feeds), strict=True)}


def expectation_of(artifact: onnx.ModelProto, spec: ModelSpec, photo: Expectation) -> Expectation:
    """An artifact's own answer to the check photo that `photo` names.

    int8 networks are held against this, and not against fp32, from which they may differ by more than a wrong kernel.
    """
    maps = run(float_session(artifact), spec, synthetic_photo(photo.height_px, photo.width_px, photo.seed))
    return expect(photo.height_px, photo.width_px, photo.seed, maps["foreground"], maps.get("classes"))


def compare(expected: Sequence[Pixels], found: Sequence[Pixels]) -> Fidelity:
    """Compares foregrounds uint8 (h, w) of a reduced precision with those of fp32, photo by photo."""
    levels = [np.abs(a.astype(np.int16) - b).mean() for a, b in zip(expected, found, strict=True)]
    overlaps = [overlap(a, b) for a, b in zip(expected, found, strict=True)]
    return Fidelity(
        photos=len(levels),
        mean_levels=round(float(np.mean(levels)), 4),
        median_iou=round(float(np.median(overlaps)), 4),
        low_iou=round(float(np.percentile(overlaps, _LOW_PERCENTILE)), 4),
    )


def overlap(first: Pixels, second: Pixels) -> float:
    """Intersection over union of two subjects, from their foregrounds uint8 (h, w); 1 if there is none in both."""
    a, b = first >= _SUBJECT_LEVEL, second >= _SUBJECT_LEVEL
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def in_bf16(core: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a core that rounds its input, its weights and the results of its nodes to bf16, and computes in fp32.

    That is what a processor with bf16 instructions does, but that it also fuses nodes, whose results it then doesn't
    round in between: so this form is a little less exact.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(core)
    graph = copy.graph
    inferred = onnx.shape_inference.infer_shapes(copy).graph
    maps = {value.name for value in (*inferred.value_info, *inferred.output) if _is_map(value.type.tensor_type)}
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}

    def add_rounding(name: str) -> None:
        for source, target, kind in (
            (name, f"{name}/bf16", TensorProto.BFLOAT16),
            (f"{name}/bf16", f"{name}/rounded", TensorProto.FLOAT),
        ):
            nodes.append(helper.make_node("Cast", [source], [target], to=kind))
        rounded[name] = f"{name}/rounded"

    weights = [t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    for name in (graph.input[0].name, *weights):
        add_rounding(name)
    for node in graph.node:
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes.append(node)
        if node.op_type not in _EXACT_IN_BF16:
            for name in node.output:
                if name in maps and name != graph.output[0].name:
                    add_rounding(name)
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _is_map(tensor: onnx.TypeProto.Tensor) -> bool:
    """Whether a value is float32 with two dimensions or more, or an unknown number; sizes have at most one."""
    return tensor.elem_type == TensorProto.FLOAT and not (tensor.HasField("shape") and len(tensor.shape.dim) < 2)
