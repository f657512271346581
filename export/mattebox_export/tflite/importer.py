"""Makes ONNX of a TFLite file, and a core of that."""

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation, Normalisation
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.tflite import layers, operators
from mattebox_export.tflite.graph import Graph, finish, start
from mattebox_export.tflite.reader import Operator, read_tflite

# The newest version of each operator whose float32 form is known. Later ones bring types and options of their own.
_OPERATORS: dict[str, tuple[int, Callable[[Graph, Operator], None]]] = {
    "ADD": (5, operators.arithmetic),
    "AVERAGE_POOL_2D": (3, layers.average_pool),
    "CONCATENATION": (4, operators.concatenation),
    "CONV_2D": (7, layers.convolution),
    "DEPTHWISE_CONV_2D": (7, layers.depthwise),
    "DEQUANTIZE": (5, operators.dequantize),
    "FULLY_CONNECTED": (10, operators.fully_connected),
    "HARD_SWISH": (1, operators.function),
    "LOGISTIC": (3, operators.function),
    "MAX_POOL_2D": (3, layers.max_pool),
    "MEAN": (3, operators.mean),
    "MUL": (7, operators.arithmetic),
    "PAD": (4, operators.pad),
    "PRELU": (1, operators.prelu),
    "RELU": (3, operators.activation),
    "RELU6": (3, operators.activation),
    "RELU_N1_TO_1": (1, operators.activation),
    "RESHAPE": (1, operators.reshape),
    "RESIZE_BILINEAR": (4, operators.resize),
    "SOFTMAX": (3, operators.softmax),
    "SUB": (5, operators.arithmetic),
    "TANH": (3, operators.activation),
    "TRANSPOSE_CONV": (4, layers.transposed),
}
_CUSTOM_OPERATORS = {"Convolution2DTransposeBias": (1, layers.transposed_with_bias)}


def import_tflite(data: bytes) -> onnx.ModelProto:
    """Makes ONNX of a TFLite file that computes in float32, with weights in float32 or float16.

    Args:
        data: the file.

    Returns:
        The graph in opset 18. Its input is float32 (N, C, H, W) for the file's (1, H, W, C), and so are outputs of four
        dimensions. N is free, unless an operator works across photos; then it is 1. Input and outputs keep their names.

    Raises:
        ExportError: the file is damaged, or holds something that can't be imported, which the message names.
    """
    file = read_tflite(data)
    graph = start(file)
    for op in file.operators:
        known = _CUSTOM_OPERATORS if op.custom else _OPERATORS
        if op.kind not in known:
            op.refuse(f"this {'custom ' if op.custom else ''}operator can't be imported")
        newest, add = known[op.kind]
        if not 1 <= op.version <= newest:
            op.refuse(f"version {op.version} can't be imported, only 1 to {newest}")
        add(graph, op)
    model = finish(graph)
    try:
        onnx.checker.check_model(model, full_check=True)  # pyright: ignore[reportUnknownMemberType]
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the TFLite file makes no valid ONNX: {error}") from error
    return model


def tflite_core(data: bytes, normalisation: Normalisation, activation: Activation) -> Core:
    """Makes a core of a TFLite file.

    Args:
        data: the file.
        normalisation: how pixels become the network's input.
        activation: function that turns a saliency network's values into probabilities.

    Raises:
        ExportError: as `import_tflite`.
    """
    model = import_tflite(data)
    return Core(model, normalisation, activation, _reference(model), hashlib.sha256(data).hexdigest())


def _reference(model: onnx.ModelProto) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function that runs the graph as it was imported, one photo at a time, and gives its first output."""
    whole = model.SerializeToString()

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
        name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
        return np.concatenate([session.run([output], {name: image[i : i + 1]})[0] for i in range(len(image))])

    return run
