"""A core: a network before Mattebox puts its head and tail around it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation, Triple


@dataclass(frozen=True)
class Normalisation:
    """How pixels become the core's input: they are divided by 255, `mean` is subtracted, the rest is divided by `std`.

    Args:
        mean: mean of red, green and blue, of values in [0, 1].
        std: standard deviation of red, green and blue, of values in [0, 1].
        by_maximum: whether pixels are divided by the photo's largest value instead of 255, as in U2-Net's own code.
    """

    mean: Triple
    std: Triple
    by_maximum: bool = False


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
    """

    model: onnx.ModelProto
    normalisation: Normalisation
    activation: Activation
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    weights_sha256: str
