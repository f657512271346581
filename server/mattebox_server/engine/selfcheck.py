"""The check photo: a synthetic photo by which a session is compared with the network that was exported.

The exporter stores the network's answer to the check photo in the artifact. Every session of a server must give the
same answer before it serves, and again after it has failed on several photos in a row. So a device that computes
nonsense is found before a caller gets it, and photos that make a network fail are told from a session that is ill.
"""

import base64

import numpy as np
from numpy.typing import NDArray

from mattebox_server.engine.config import ProviderUnavailable
from mattebox_server.engine.inference import run_session
from mattebox_server.engine.session import Session
from mattebox_server.errors import InferenceFailed
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import Expectation

GRID = 32
"""Answers are compared at GRID x GRID points."""

# Measured on deeplabv3_resnet101 with random weights, a hard case, as few of its pixels have a clear winner: in float32
# onnxruntime is 0.0 grey levels from torch on average and all classes are the same; torch's own bf16 is 0.6 to 1.0
# levels from its float32, and 96.6 to 98.8 % of the classes are the same. Nonsense is much farther away. An int8
# artifact holds the answer of its own int8 graph, so that only the order of sums and the roundings differ: of the same
# network by 2.4 to 2.6 levels and 83 to 85 % of the classes, of U2-Net-p by 0.1 levels. Kernels whose 16-bit sums
# saturate, as on processors without VNNI, are 6.9 levels off with DeepLabV3-MobileNetV2.
_MAX_MEAN_LEVELS = {"fp32": 0.5, "tf32": 2.0, "fp16": 2.0, "bf16": 6.0, "int8": 5.0}
_MIN_CLASSES = {"fp32": 0.99, "tf32": 0.97, "fp16": 0.97, "bf16": 0.90, "int8": 0.75}


def synthetic_photo(height: int, width: int, seed: int) -> Pixels:
    """Draws coloured waves, a darker blob in the middle and some grain, which excite a network as photos do.

    Returns:
        uint8 (height, width, 3) BGR, 0 to 240: below 255, so that a network which divides by the maximum differs from
        one which divides by 255.
    """
    rng = np.random.RandomState(seed)  # numpy promises the same numbers for ever for this generator only
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


def sample(values: Pixels) -> Pixels:
    """Takes GRID x GRID points of a map uint8 (h, w), row by row, as uint8 (GRID * GRID)."""
    rows, columns = (((np.arange(GRID) + 0.5) * side / GRID).astype(int) for side in values.shape)
    return values[np.ix_(rows, columns)].ravel()


def expect(height: int, width: int, seed: int, foreground: Pixels, classes: Pixels | None) -> Expectation:
    """The network's answer to the photo that `synthetic_photo` draws, as the artifact stores it.

    `foreground` is uint8 (height, width), with everything kept but the background. `classes` is uint8 (height, width),
    or None from a saliency network.
    """
    levels, labels = _encode(foreground), None if classes is None else _encode(classes)
    return Expectation(height_px=height, width_px=width, seed=seed, foreground=levels, classes=labels)


def _encode(values: Pixels) -> str:
    return base64.b64encode(sample(values).tobytes()).decode()


def _decode(points: str) -> Pixels:
    return np.frombuffer(base64.b64decode(points), np.uint8)


def deviation(expected: Expectation, foreground: Pixels, classes: Pixels | None) -> tuple[float, float | None]:
    """How far an answer, of which both arrays are uint8 (h, w), is from the expected one.

    Returns:
        Mean absolute difference of the foreground in grey levels, and share of the points with the same class (None
        from a saliency network).
    """
    levels = np.abs(_decode(expected.foreground).astype(float) - sample(foreground)).mean()
    if expected.classes is None or classes is None:
        return float(levels), None
    return float(levels), float((_decode(expected.classes) == sample(classes)).mean())


def is_within_limits(precision: str, levels: float, share: float | None) -> bool:
    """Whether a deviation is no larger than the precision explains."""
    return levels <= _MAX_MEAN_LEVELS[precision] and (share is None or share >= _MIN_CLASSES[precision])


def check_session(session: Session) -> dict[str, float]:
    """Runs the check photo on a session, and compares the answer with the one in the artifact.

    Returns:
        How far the answers are apart, by names for the log.

    Raises:
        ProviderUnavailable: the run fails, or the answers are farther apart than the precision explains.
    """
    spec, expected = session.spec, session.spec.expectation
    if expected is None:
        raise ProviderUnavailable("the model doesn't say what its network should answer")
    photo = synthetic_photo(expected.height_px, expected.width_px, expected.seed)
    try:
        (found,) = run_session(session, [photo], [spec.foreground_classes])
    except InferenceFailed as error:
        raise ProviderUnavailable(str(error)) from error
    levels, share = deviation(expected, found.foreground, found.classes)
    if not is_within_limits(session.precision, levels, share):
        agreement = "" if share is None else f" and classes agree on {share:.1%}"
        raise ProviderUnavailable(
            f"it computes something else than the network: in {session.precision}, a check photo's foreground is"
            f" {levels:.1f} grey levels off on average{agreement}"
        )
    return {"mean_levels": round(levels, 3)} | ({} if share is None else {"same_classes": round(share, 4)})
