"""A photo that is made of numbers, and how far an answer to it may be from what it should be.

The exporter stores in the artifact what the network says of such a photo; the server asks the device the same before
it serves. A device that computes nonsense is found before a caller finds it.
"""

import base64

import numpy as np
from numpy.typing import NDArray

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import Expectation

GRID = 32
"""Answers are compared at GRID x GRID points."""

# Measured on deeplabv3_resnet101 with random weights, a hard case, as few of its pixels have a clear winner: in float32
# onnxruntime is 0.0 grey levels from torch on average and all classes are the same; torch's own bf16 is 0.6 to 1.0
# levels from its float32, and 96.6 to 98.8 % of the classes are the same. What computes something else is far beyond.
_MAX_MEAN_LEVELS = {"fp32": 0.5, "tf32": 2.0, "fp16": 2.0, "bf16": 6.0}
_MIN_CLASSES = {"fp32": 0.99, "tf32": 0.97, "fp16": 0.97, "bf16": 0.90}


def synthetic_photo(height: int, width: int, seed: int) -> Pixels:
    """Coloured waves, a darker blob in the middle and some grain: it excites a network as photos do.

    Returns:
        uint8 (height, width, 3), 0 to 240: dividing by the maximum must show.
    """
    rng = np.random.RandomState(seed)  # of all of numpy's generators the one whose numbers are promised never to change
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    photo: NDArray[np.float64] = np.empty((height, width, 3))
    for channel in range(3):
        waves, phases = rng.uniform(1, 9, (6, 2)), rng.uniform(0, 2 * np.pi, 6)
        photo[..., channel] = sum(
            np.sin(2 * np.pi * (a * x + b * y) + phase) for (a, b), phase in zip(waves, phases, strict=True)
        )
    cy, cx, radius = height / max(height, width) / 2, width / max(height, width) / 2, rng.uniform(0.15, 0.3)
    blob = 1 / (1 + np.exp(((y - cy) ** 2 + (1.5 * (x - cx)) ** 2 - radius**2) * 300))
    photo = (photo / 6 * 127 + 128) * (1 - blob[..., np.newaxis]) + rng.uniform(20, 200, 3) * blob[..., np.newaxis]
    photo += rng.normal(0, 8, photo.shape)
    return np.clip(photo, 0, 240).astype(np.uint8)


def sample(values: Pixels) -> bytes:
    """GRID x GRID points of a map uint8 (h, w), row by row."""
    rows, columns = (((np.arange(GRID) + 0.5) * side / GRID).astype(int) for side in values.shape)
    return values[np.ix_(rows, columns)].tobytes()


def expect(height: int, width: int, seed: int, foreground: Pixels, classes: Pixels | None) -> Expectation:
    """What goes into the artifact.

    Args:
        height: of the photo.
        width: of the photo.
        seed: of the photo.
        foreground: uint8 (height, width), everything but the background kept.
        classes: uint8 (height, width); None from a saliency network.
    """
    return Expectation(
        height_px=height,
        width_px=width,
        seed=seed,
        foreground=base64.b64encode(sample(foreground)).decode(),
        classes=None if classes is None else base64.b64encode(sample(classes)).decode(),
    )


def deviation(expected: Expectation, foreground: Pixels, classes: Pixels | None) -> tuple[float, float | None]:
    """How far an answer is from the expectation.

    Returns:
        Mean absolute difference of the foreground in grey levels, and the share of points of the same class.
    """
    levels = np.frombuffer(base64.b64decode(expected.foreground), np.uint8).astype(float)
    found = np.frombuffer(sample(foreground), np.uint8)
    share = None
    if expected.classes is not None and classes is not None:
        same = np.frombuffer(base64.b64decode(expected.classes), np.uint8) == np.frombuffer(sample(classes), np.uint8)
        share = float(same.mean())
    return float(np.abs(levels - found).mean()), share


def is_within_limits(precision: str, levels: float, share: float | None) -> bool:
    """Whether a deviation is what the precision explains."""
    return levels <= _MAX_MEAN_LEVELS[precision] and (share is None or share >= _MIN_CLASSES[precision])
