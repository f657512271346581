"""A core: a network before Mattebox puts its head and tail around it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation, Normalisation


@dataclass(frozen=True)
class Core:
    """A network as ONNX, which takes float32 RGB (N, 3, H, W); of its outputs the first one is used.

    Args:
        model: the graph. A semantic core gives logits (N, C, h, w), a saliency core values (N, 1, h, w).
        normalisation: how pixels become the core's input.
        activation: function that turns a saliency core's values into probabilities; without effect on a semantic core.
        reference: the unchanged network (torch in eager mode, or the given file), from normalised float32
            (N, 3, H, W) to its output float32 (N, C, h, w). The parity check compares the artifact with it.
        weights_sha256: digest of the file that the weights come from, or of the random weights themselves.
        notes: lines of text about what was found in the network's file, for whoever exports it.
        half: whether the reference computes in half precision, so that it is less exact than the artifact.
    """

    model: onnx.ModelProto
    normalisation: Normalisation
    activation: Activation
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    weights_sha256: str
    notes: tuple[str, ...] = ()
    half: bool = False
