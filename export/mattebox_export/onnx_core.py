"""Cores that are ONNX files already."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation, Normalisation
from mattebox_export.core import Core
from mattebox_export.errors import ExportError


def file_core(path: Path, normalisation: Normalisation, activation: Activation) -> Core:
    """Reads a network.

    Args:
        path: the ONNX file, whose weights may lie in files beside it.
        normalisation: how pixels become the network's input.
        activation: function that turns a saliency network's values into probabilities.

    Raises:
        ExportError: the file can't be read.
    """
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            model = onnx.load(path)  # pyright: ignore[reportUnknownMemberType] - reads the weights beside it too
            data = model.SerializeToString()
    except OSError as error:
        raise ExportError(f"can't read the core {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's and onnx's own types
        raise ExportError(f"{path} is not a whole ONNX file: {error}") from error
    return Core(model, normalisation, activation, _reference(model), hashlib.sha256(data).hexdigest())


def _reference(model: onnx.ModelProto) -> Any:
    """A function that runs the unchanged file on one photo at a time."""

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
        return np.concatenate([session.run([output], {name: image[i : i + 1]})[0] for i in range(len(image))])

    return run
