"""Cores that are ONNX files already, of which everything is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation, Normalisation
from mattebox_export.core import Core
from mattebox_export.normal_form import is_half
from mattebox_export.onnx_file import read_onnx


def file_core(path: Path, normalisation: Normalisation, activation: Activation) -> Core:
    """Reads a network.

    Args:
        path: the ONNX file, whose weights may lie in files beside it.
        normalisation: how pixels become the network's input.
        activation: function that turns a saliency network's values into probabilities.

    Raises:
        ExportError: the file can't be read.
    """
    file = read_onnx(path)
    half = is_half(file.model.graph)
    return Core(file.model, normalisation, activation, _reference(path), file.sha256, half=half)


def _reference(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function that runs the unchanged file on one photo at a time; it holds no weights between two runs."""

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
        answers = [np.asarray(session.run([output], {name: image[i : i + 1]})[0]) for i in range(len(image))]
        return np.concatenate(answers)

    return run
