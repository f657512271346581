"""Runs imported TFLite files, and compares them with what their operators are defined to give."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.tflite.importer import import_tflite
from tflite_files import File, Step

Floats = NDArray[np.float32]


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def run(model: onnx.ModelProto, x: Floats) -> Floats:
    """Runs a graph on (N, H, W, C); an answer of four dimensions is (N, H, W, C) again."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y: Floats = session.run(None, {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2)})[0]
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def check(steps: Sequence[Step], x: Floats, expected: Floats) -> onnx.ModelProto:
    """The file's answers for one photo, and for two at once, of which the first is upside down."""
    model = import_tflite(File(steps, x.shape).data)
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-5, atol=1e-5)
    two = run(model, np.concatenate([-x[:, ::-1], x]))
    np.testing.assert_allclose(two[1:], expected, rtol=1e-5, atol=1e-5)
    return model


def one(
    kind: str,
    x: Floats,
    constants: Sequence[NDArray[Any] | None],
    expected: Floats,
    options: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    return check([Step(kind, ["x", *constants], "y", expected.shape, options or {})], x, expected)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]
