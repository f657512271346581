"""The parity check: runs the artifact and the network that it was made of on the same photos, and compares the answers.

The artifact runs on ONNX Runtime's CPU provider. The network gets photos that were normalised by numpy, and numpy makes
maps of its output. So head and tail are checked as well as the core.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import Activation, Normalisation
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.wrap import CORE_OUTPUT, with_core_output
from mattebox_server.engine.selfcheck import expect, synthetic_photo
from mattebox_server.spec import BACKGROUND, Expectation, ModelSpec, Precision, ShortSide


@dataclass(frozen=True)
class ParityLimits:
    """The largest differences with which an artifact is written.

    Args:
        core: largest absolute difference of the core's output, as a share of the output's largest value if that is
            above 1.
        foreground: largest difference of the foreground, in grey levels.
        mean_foreground: mean difference of the foreground, in grey levels.
        classes: smallest share of pixels with the same class.
    """

    core: float
    foreground: int
    mean_foreground: float
    classes: float


LIMITS: dict[Precision, ParityLimits] = {
    "fp32": ParityLimits(core=1e-3, foreground=1, mean_foreground=0.05, classes=0.999),
    # Half precision moves edges and changes the class of pixels without a clear winner, so that the largest difference
    # of one pixel means little. Measured: deeplabv3_resnet101 with random weights 0.006, mean 0.07 levels, 99.7 % of
    # the classes; deeplabv3_mobilenet_v3_large 0.005, 0.10, 99.8 %; u2netp 0.11 at one edge, mean 0.17.
    "fp16": ParityLimits(core=0.25, foreground=255, mean_foreground=0.5, classes=0.99),
}


@dataclass(frozen=True)
class Parity:
    """How far an artifact and its network are apart.

    Args:
        limits: limits for the artifact's precision.
        sizes: heights and widths of the photos, in pixels.
        batch: number of photos in a run.
        core: largest difference of the core's output (logits, or saliency before the activation), measured as in
            `ParityLimits`.
        foreground: largest difference of the foreground, in grey levels.
        mean_foreground: mean difference of the foreground at the worst size, in grey levels.
        classes: share of pixels with the same class at the worst size; None for a saliency network.
        expectation: the network's answer to the photo with the most varied foreground.
    """

    limits: ParityLimits
    sizes: tuple[tuple[int, int], ...]
    batch: int
    core: float
    foreground: int
    mean_foreground: float
    classes: float | None
    expectation: Expectation

    @property
    def holds(self) -> bool:
        """Whether the artifact may be written."""
        return (
            self.core <= self.limits.core
            and self.foreground <= self.limits.foreground
            and self.mean_foreground <= self.limits.mean_foreground
            and (self.classes is None or self.classes >= self.limits.classes)
        )

    def __str__(self) -> str:
        sizes = ", ".join(f"{width}x{height}" for height, width in self.sizes)
        limits = self.limits
        classes = "" if self.classes is None else f", classes agree on {self.classes:.4%} (>= {limits.classes:.1%})"
        return (
            f"parity at {sizes}, batch {self.batch}: core output differs by at most {self.core:.2e}"
            f" (<= {limits.core:.0e}), foreground by {self.foreground} grey levels (<= {limits.foreground}),"
            f" {self.mean_foreground:.3f} on average (<= {limits.mean_foreground}){classes}"
        )


@dataclass(frozen=True)
class _Comparison:
    """The differences at one size, and the network's answer to each photo with the spread of its foreground."""

    core: float
    foreground: int
    mean_foreground: float
    classes: float | None
    expectations: Sequence[tuple[float, Expectation]]


def check_parity(artifact: onnx.ModelProto, core: Core, spec: ModelSpec) -> Parity:
    """Measures how far an artifact and its network are apart.

    Args:
        artifact: the artifact to be checked.
        core: the core as it was built, with its reference.
        spec: description of the artifact.

    Raises:
        ExportError: the artifact doesn't run, or a difference is over its limit.
    """
    sizes, batch = _sizes(artifact, spec), _batch(artifact)
    cases = [np.stack([synthetic_photo(*size, seed) for seed in range(batch)]) for size in sizes]
    try:
        # The network's weights are out of memory again before the artifact's are in it.
        expected = [core.reference(normalise(photos, core.normalisation)) for photos in cases]
        session = _open(artifact)
        found = [_compare(session, core, spec, *case) for case in zip(cases, expected, strict=True)]
    except Exception as error:  # onnxruntime raises its own types, all of them undocumented
        mend = "; if the core takes some sizes only, fix one by --resize stretch:512x512" if len(sizes) > 1 else ""
        raise ExportError(f"ONNX Runtime doesn't run the artifact: {error}{mend}") from error
    shares = [each.classes for each in found if each.classes is not None]
    parity = Parity(
        limits=LIMITS["fp16" if core.half else spec.precision],
        sizes=tuple(sizes),
        batch=batch,
        core=max(each.core for each in found),
        foreground=max(each.foreground for each in found),
        mean_foreground=max(each.mean_foreground for each in found),
        classes=min(shares) if shares else None,
        expectation=max((e for each in found for e in each.expectations), key=lambda pair: pair[0])[1],
    )
    if not parity.holds:
        raise ExportError(f"the artifact differs from the network, nothing was written: {parity}")
    return parity


def _open(artifact: onnx.ModelProto) -> ort.InferenceSession:
    """A session of an artifact with the core's output, by way of a file: onnxruntime needs no second copy of that."""
    with tempfile.TemporaryDirectory() as folder, with_core_output(artifact) as model:
        path = Path(folder) / "artifact.onnx"
        path.write_bytes(model.SerializeToString())
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


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
    session: ort.InferenceSession,
    core: Core,
    spec: ModelSpec,
    photos: NDArray[np.uint8],
    answer: NDArray[np.float32],
) -> _Comparison:
    """Compares a session's answer to photos uint8 (N, H, W, 3) BGR with the network's, float32 (N, C, h, w)."""
    batch, height, width = photos.shape[:3]
    expected = upsample(answer, height, width)
    feeds: dict[str, NDArray[np.generic]] = {"image": photos}
    if spec.kind == "semantic":
        keep = np.array([label != BACKGROUND for label in spec.labels], np.float32)
        feeds["keep"] = np.tile(keep, (batch, 1))
        probability = np.einsum("nchw,c->nhw", softmax(expected), keep)
        classes = expected.argmax(1).astype(np.uint8)
    else:
        probability, classes = activate(expected, core.activation)[:, 0], None
    levels = np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    apart = np.abs(outputs["foreground"].astype(int) - levels)
    return _Comparison(
        core=float(np.abs(outputs[CORE_OUTPUT] - expected).max() / max(1.0, np.abs(expected).max())),
        foreground=int(apart.max()),
        mean_foreground=float(apart.mean()),
        classes=None if classes is None else float((outputs["classes"] == classes).mean()),
        expectations=[
            (float(levels[i].std()), expect(height, width, i, levels[i], None if classes is None else classes[i]))
            for i in range(batch)
        ],
    )


def normalise(photos: NDArray[np.uint8], normalisation: Normalisation) -> NDArray[np.float32]:
    """Turns photos uint8 (N, H, W, 3) BGR into a core's input float32 (N, 3, H, W) RGB."""
    rgb = photos[..., ::-1].astype(np.float32)
    scale = np.full((len(rgb), 1, 1, 1), 255, np.float32)
    if normalisation.by_maximum:
        scale = np.maximum(rgb.max(axis=(1, 2, 3), keepdims=True), np.float32(1e-6))
    mean, std = np.asarray(normalisation.mean, np.float32), np.asarray(normalisation.std, np.float32)
    unit = (rgb / scale - mean) / std
    return np.ascontiguousarray(unit.transpose(0, 3, 1, 2))


def upsample(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Enlarges maps (N, C, h, w) to (N, C, height, width): bilinear, pixel centres at half, edges repeated."""
    rows, columns = _bilinear(maps.shape[2], height), _bilinear(maps.shape[3], width)
    return (rows @ maps @ columns.T).astype(np.float32)


def _bilinear(old: int, new: int) -> NDArray[np.float64]:
    """The matrix (new, old) that interpolates along one axis; the identity if the length stays."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(centres.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (centres - low))
    np.add.at(weights, (np.arange(new), high), centres - low)
    return weights


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax of logits (N, C, H, W) over the classes, axis 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def activate(values: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Turns a saliency core's values (N, 1, H, W) into probabilities."""
    match activation:
        case "none":
            return values
        case "sigmoid":
            return np.asarray(1 / (1 + np.exp(-values)), np.float32)
        case "minmax":
            low, high = values.min(axis=(1, 2, 3), keepdims=True), values.max(axis=(1, 2, 3), keepdims=True)
            return np.asarray((values - low) / np.maximum(high - low, 1e-6), np.float32)
