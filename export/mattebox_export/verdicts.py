"""What the values of a user's network say about it: whether they are probabilities, and whether anything is wrong."""

import numpy as np
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation
from mattebox_export.errors import ExportError

_SLACK = 0.05  # how far a map may leave [0, 1], for example by a bicubic resize
_SUM_SLACK = 0.01  # how far the sum of probabilities in half precision may be from 1


def check_saliency(maps: NDArray[np.float32], name: str, activation: Activation | None) -> tuple[str, ...]:
    """Judges a saliency network's values for a photo, float32 (N, 1, h, w) before the activation.

    Args:
        maps: the values.
        name: name of the output.
        activation: the activation that the command line asks for; None if it doesn't.

    Returns:
        Lines of text that warn.

    Raises:
        ExportError: the values can't be a saliency map.
    """
    low, high = _range(maps, name)
    within = low >= -_SLACK and high <= 1 + _SLACK
    about = f"the core's output {name} has values from {low:.3g} to {high:.3g} on a photo"
    mend = "--activation sigmoid (of logits) or minmax (of whatever else) makes probabilities of them"
    if not within and activation is None:
        raise ExportError(f"{about}: {mend}; --activation none cuts them off at 0 and 1")
    if low == high:
        return (f"warning: {about}, the same everywhere: is it the right output, --mean and --std?",)
    if not within and activation == "none":
        return (f"warning: {about}, which are cut off at 0 and 1: {mend}",)
    if within and activation == "sigmoid":
        return (f"warning: {about}, so they seem to be probabilities already, and --activation sigmoid one too many",)
    return ()


def check_semantic(maps: NDArray[np.float32], name: str) -> tuple[str, ...]:
    """Judges a semantic network's values for a photo, float32 (N, C, h, w).

    Returns:
        Lines of text that warn.

    Raises:
        ExportError: the values can't be logits, nor probabilities.
    """
    low, high = _range(maps, name)
    if low == high:
        return (
            f"warning: the core's output {name} is {low:.3g} everywhere: is it the right output, --mean and --std?",
        )
    if low >= 0 and high <= 1 and not are_probabilities(maps):
        about = f"the core's output {name} has values from {low:.3g} to {high:.3g} that don't sum to 1"
        return (f"warning: {about}, so its classes are told apart less than they could be: export it without sigmoid",)
    return ()


def are_probabilities(maps: NDArray[np.float32]) -> bool:
    """Whether maps (N, C, h, w) have been through a softmax: no value below 0, and a sum of 1 at each pixel."""
    return bool(maps.min() >= 0 and np.abs(maps.sum(axis=1) - 1).max() <= _SUM_SLACK)


def _range(maps: NDArray[np.float32], name: str) -> tuple[float, float]:
    if not np.isfinite(maps).all():
        raise ExportError(f"the core's output {name} is not finite on a photo: are --mean and --std right?")
    return float(maps.min()), float(maps.max())
