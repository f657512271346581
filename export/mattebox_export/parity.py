"""Runs the artifact and the network that it came from on the same photos, and compares.

The artifact runs on ONNX Runtime's CPU provider. The reference gets photos that were normalised here, in numpy, by the
recipe written out plainly, so that head and tail are checked as well as the core.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.core import Core, Normalisation
from mattebox_export.errors import ExportError
from mattebox_export.options import Activation
from mattebox_export.wrap import CORE_OUTPUT, with_core_output
from mattebox_server.spec import BACKGROUND, ModelSpec, ShortSide

MAX_CORE_DIFFERENCE = 1e-3
MIN_CLASS_AGREEMENT = 0.999
MAX_FOREGROUND_DIFFERENCE = 1


@dataclass(frozen=True)
class Parity:
    """How far artifact and reference are apart.

    Args:
        sizes: (height, width) of the photos, in pixels.
        batch: photos at once.
        core: largest absolute difference of the core's output (logits, or saliency before the activation).
        foreground: largest difference in grey levels.
        classes: share of the pixels with the same class, worst size; None for a saliency network.
    """

    sizes: tuple[tuple[int, int], ...]
    batch: int
    core: float
    foreground: int
    classes: float | None

    @property
    def holds(self) -> bool:
        """Whether the artifact may be written."""
        return (
            self.core <= MAX_CORE_DIFFERENCE
            and self.foreground <= MAX_FOREGROUND_DIFFERENCE
            and (self.classes is None or self.classes >= MIN_CLASS_AGREEMENT)
        )

    def __str__(self) -> str:
        sizes = ", ".join(f"{width}x{height}" for height, width in self.sizes)
        classes = (
            "" if self.classes is None else f", classes agree on {self.classes:.4%} (>= {MIN_CLASS_AGREEMENT:.1%})"
        )
        return (
            f"parity at {sizes}, batch {self.batch}: core output differs by at most {self.core:.2e}"
            f" (<= {MAX_CORE_DIFFERENCE:.0e}), foreground by {self.foreground} grey levels"
            f" (<= {MAX_FOREGROUND_DIFFERENCE}){classes}"
        )


def check_parity(artifact: onnx.ModelProto, core: Core, spec: ModelSpec) -> Parity:
    """Measures the parity.

    Raises:
        ExportError: the artifact doesn't run, or its parity doesn't hold.
    """
    sizes, batch = _sizes(artifact, spec), _batch(artifact)
    try:
        session = ort.InferenceSession(
            with_core_output(artifact).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found = [_compare(session, core, spec, synthetic_photos(batch, *size)) for size in sizes]
    except Exception as error:  # onnxruntime raises its own types, all of them undocumented
        raise ExportError(f"ONNX Runtime doesn't run the artifact: {error}") from error
    shares = [share for _, _, share in found if share is not None]
    parity = Parity(
        tuple(sizes), batch, max(f[0] for f in found), max(f[1] for f in found), min(shares) if shares else None
    )
    if not parity.holds:
        raise ExportError(f"the artifact is not the network, nothing was written: {parity}")
    return parity


def synthetic_photos(batch: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth blobs with some grain, uint8 (batch, height, width, 3): they excite a network as photos do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    photos = np.empty((batch, height, width, 3))
    for photo in photos:
        for channel in range(3):
            waves = rng.uniform(1, 9, (6, 2))
            phases = rng.uniform(0, 2 * np.pi, 6)
            photo[..., channel] = sum(
                np.sin(2 * np.pi * (a * x + b * y) + p) for (a, b), p in zip(waves, phases, strict=True)
            )
    photos = photos / 6 * 127 + 128 + rng.normal(0, 8, photos.shape)
    return np.clip(photos, 0, 240).astype(np.uint8)  # below 255: dividing by the maximum must show


def _sizes(artifact: onnx.ModelProto, spec: ModelSpec) -> Sequence[tuple[int, int]]:
    dims = artifact.graph.input[0].type.tensor_type.shape.dim
    if dims[1].HasField("dim_value") and dims[2].HasField("dim_value"):
        return [(dims[1].dim_value, dims[2].dim_value)]
    if isinstance(spec.resize, ShortSide):
        short = spec.resize.short_side_px
        return [(short, short * 4 // 3), (short * 3 // 2, short)]
    return [(spec.resize.height_px, spec.resize.width_px)]


def _batch(artifact: onnx.ModelProto) -> int:
    batch = artifact.graph.input[0].type.tensor_type.shape.dim[0]
    return batch.dim_value if batch.HasField("dim_value") else 2


def _compare(
    session: ort.InferenceSession, core: Core, spec: ModelSpec, photos: NDArray[np.uint8]
) -> tuple[float, int, float | None]:
    expected = upsample(core.reference(normalise(photos, core.normalisation)), *photos.shape[1:3])
    feeds: dict[str, NDArray[np.generic]] = {"image": photos}
    if spec.kind == "semantic":
        keep = np.array([label != BACKGROUND for label in spec.labels], np.float32)
        feeds["keep"] = np.tile(keep, (len(photos), 1))
        expected_foreground = np.einsum("nchw,c->nhw", softmax(expected), keep)
    else:
        expected_foreground = activate(expected, core.activation)[:, 0]
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    difference = float(np.abs(outputs[CORE_OUTPUT] - expected).max())
    levels = np.rint(np.clip(expected_foreground, 0, 1) * 255).astype(int)
    foreground = int(np.abs(outputs["foreground"].astype(int) - levels).max())
    share = float((outputs["classes"] == expected.argmax(1)).mean()) if spec.kind == "semantic" else None
    return difference, foreground, share


def normalise(photos: NDArray[np.uint8], normalisation: Normalisation) -> NDArray[np.float32]:
    """Photos uint8 (N, H, W, 3) BGR to a core's input float32 (N, 3, H, W) RGB."""
    rgb = photos[..., ::-1].astype(np.float32)
    scale = np.full((len(rgb), 1, 1, 1), 255, np.float32)
    if normalisation.by_maximum:
        scale = np.maximum(rgb.max(axis=(1, 2, 3), keepdims=True), np.float32(1e-6))
    mean, std = np.asarray(normalisation.mean, np.float32), np.asarray(normalisation.std, np.float32)
    unit = (rgb / scale - mean) / std
    return np.ascontiguousarray(unit.transpose(0, 3, 1, 2))


def upsample(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear, pixel centres at half, edges repeated: (N, C, h, w) to (N, C, height, width)."""
    rows, columns = _bilinear(maps.shape[2], height), _bilinear(maps.shape[3], width)
    return (rows @ maps @ columns.T).astype(np.float32)


def _bilinear(old: int, new: int) -> NDArray[np.float64]:
    """The matrix (new, old) that interpolates one axis; the identity if nothing changes."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(centres.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (centres - low))
    np.add.at(weights, (np.arange(new), high), centres - low)
    return weights


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over axis 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def activate(values: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """A saliency core's values (N, 1, H, W) to probabilities."""
    match activation:
        case "none":
            return values
        case "sigmoid":
            return np.asarray(1 / (1 + np.exp(-values)), np.float32)
        case "minmax":
            low, high = values.min(axis=(1, 2, 3), keepdims=True), values.max(axis=(1, 2, 3), keepdims=True)
            return np.asarray((values - low) / np.maximum(high - low, 1e-6), np.float32)
