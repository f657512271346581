"""A network without Mattebox's head and tail, and what has to be known to put them on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from mattebox_export.options import Activation, Triple


@dataclass(frozen=True)
class Normalisation:
    """Pixels to the core's input: divide by `scale`, subtract `mean`, divide by `std` (RGB).

    Args:
        mean: of values in [0, 1].
        std: of values in [0, 1].
        by_maximum: divide by the photo's own largest value instead of 255, as U2-Net's own code does.
    """

    mean: Triple
    std: Triple
    by_maximum: bool = False


@dataclass(frozen=True)
class Core:
    """One network as ONNX: float32 RGB (N, 3, H, W) in, its first output is what counts.

    Args:
        model: the graph. A semantic core gives logits (N, C, h, w), a saliency core values (N, 1, h, w).
        normalisation: of its input.
        activation: saliency only: what makes probabilities of the core's values.
        reference: the same network as it came (torch in eager mode, the file as it was given): normalised float32
            (N, 3, H, W) to its output float32 (N, C, h, w). The parity check compares with it.
        weights_sha256: digest of the file that the weights come from, or of the random weights themselves.
    """

    model: onnx.ModelProto
    normalisation: Normalisation
    activation: Activation
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    weights_sha256: str
