"""torchvision's DeepLabV3 networks as ONNX cores without torch: skeletons of the package, filled with weights."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from mattebox_export.checkpoint import parse_checkpoint, read_bytes
from mattebox_export.core import Core
from mattebox_export.parity import upsample
from mattebox_export.skeletons import Weights, fit, fold, load_skeleton, set_classes


def skeleton_core(name: str, weights: Path) -> Core:
    """Builds a network of torchvision with a file's weights.

    Args:
        name: the network's name in the catalogue.
        weights: the official checkpoint or one's own, of torch or safetensors, with or without the auxiliary head. It
            also says how many classes there are.

    Raises:
        ExportError: the weights can't be read, or are not this network's.
    """
    skeleton = load_skeleton(name)
    fitting, digest = _fitting_weights(skeleton, weights)
    normalisation = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
    return Core(fold(skeleton, fitting), normalisation, "none", _reference(skeleton, fitting), digest)


def _fitting_weights(skeleton: onnx.ModelProto, path: Path) -> tuple[Weights, str]:
    """Reads a file's weights, gives the skeleton their number of classes, and takes the file's digest.

    This is a function of its own so that a file that had to be copied is gone from memory before the network is filled.
    """
    data = read_bytes(path)
    state = parse_checkpoint(data, path)
    set_classes(skeleton, state)
    return fit(skeleton, state, path), hashlib.sha256(data).hexdigest()


def _reference(skeleton: onnx.ModelProto, weights: Weights) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function that runs the network node by node as torch does, batch norms apart, and gives logits at full size."""

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]  # without a copy
        options.add_external_initializers(list(weights), values)
        session = ort.InferenceSession(skeleton.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {skeleton.graph.input[0].name: image})
        return upsample(logits, *image.shape[2:])

    return run
