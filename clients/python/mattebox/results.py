"""Answers of the server as frozen, plain values."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from mattebox import pictures
from mattebox.options import ImageFormat
from mattebox.v1 import background_removal_pb2 as pb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

# A newer server may answer with values that this version has no word for; they become "unknown".
ResultFormat: TypeAlias = ImageFormat | Literal["unknown"]
ResultPixelFormat: TypeAlias = Literal["rgb", "rgba", "gray", "unknown"]
ModelKind: TypeAlias = Literal["semantic", "saliency", "unknown"]
PolicyName: TypeAlias = Literal["short_side", "stretch", "letterbox", "unknown"]

_FORMATS: dict[pb.ImageFormat.ValueType, ResultFormat] = {
    pb.IMAGE_FORMAT_PNG: "png",
    pb.IMAGE_FORMAT_JPEG: "jpeg",
    pb.IMAGE_FORMAT_WEBP: "webp",
    pb.IMAGE_FORMAT_RAW: "raw",
}
_PIXEL_FORMATS: dict[pb.PixelFormat.ValueType, ResultPixelFormat | None] = {
    pb.PIXEL_FORMAT_UNSPECIFIED: None,
    pb.PIXEL_FORMAT_RGB8: "rgb",
    pb.PIXEL_FORMAT_RGBA8: "rgba",
    pb.PIXEL_FORMAT_GRAY8: "gray",
}
_KINDS: dict[pb.ModelKind.ValueType, ModelKind] = {
    pb.MODEL_KIND_SEMANTIC: "semantic",
    pb.MODEL_KIND_SALIENCY: "saliency",
}


@dataclass(frozen=True)
class BoundingBox:
    """A rectangle of the output in pixels: columns `x` to `x + width - 1`, rows `y` to `y + height - 1`."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Subject:
    """A subject that the network found. `coverage` is its share of the frame, above 0 and at most 1."""

    label: str
    class_index: int
    coverage: float
    box: BoundingBox


@dataclass(frozen=True)
class Execution:
    """The model that ran, and on what. `untrained` means that its weights are random and the matte is worthless."""

    model: str
    weights_sha256: str
    provider: str
    precision: str
    batch_size: int
    untrained: bool


@dataclass(frozen=True)
class Timings:
    """The time that each stage took in the server, on the wall clock; `matte` covers matte and blend."""

    decode: timedelta
    preprocess: timedelta
    queue: timedelta
    infer: timedelta
    matte: timedelta
    encode: timedelta
    total: timedelta


@dataclass(frozen=True)
class RemovalResult:
    """The answer to one photo.

    Args:
        image: the image file, or bare pixels for the format "raw".
        format: the format of `image`.
        width: the width of `image` in pixels.
        height: the height of `image` in pixels.
        pixel_format: the layout of `image` for the format "raw", else None.
        alpha: the matte as an 8-bit grey PNG, if `include_alpha` asked for it, else None.
        subjects: the subjects, largest first; empty if the network found none.
        execution: the model that ran, and on what.
        timings: the time that each stage took.
        request_id: the call's id in the server's log.
    """

    image: bytes = field(repr=False)
    format: ResultFormat
    width: int
    height: int
    pixel_format: ResultPixelFormat | None
    alpha: bytes | None = field(repr=False)
    subjects: tuple[Subject, ...]
    execution: Execution
    timings: Timings
    request_id: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `image` to a file unchanged: the file's suffix doesn't choose the format. Raises OSError."""
        Path(path).write_bytes(self.image)

    def to_pil(self) -> Image:
        """Returns `image` as a Pillow image with its colour profile.

        Raises:
            ModuleNotFoundError: Pillow is missing.
            ValueError: `pixel_format` is "unknown".
        """
        return pictures.to_pil(self.image, self.width, self.height, self.pixel_format)

    def to_numpy(self) -> NDArray[np.uint8]:
        """Returns the pixels of `image`: uint8 (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey.

        Raises:
            ModuleNotFoundError: NumPy is missing, or Pillow, which decodes all formats but "raw".
            ValueError: `pixel_format` is "unknown".
        """
        return pictures.to_numpy(self.image, self.width, self.height, self.pixel_format)


@dataclass(frozen=True)
class ResizePolicy:
    """How photos are brought to a model's input size.

    Args:
        policy: the way: "short_side" keeps the aspect ratio, "stretch" doesn't, "letterbox" keeps it and adds borders.
        width: the width of the input in pixels, for stretch and letterbox.
        height: the height of the input in pixels, for stretch and letterbox.
        short_side: the length of the short side in pixels, for short_side.
        max_long_side: the largest length of the long side in pixels, for short_side.
    """

    policy: PolicyName
    width: int | None = None
    height: int | None = None
    short_side: int | None = None
    max_long_side: int | None = None


@dataclass(frozen=True)
class Fidelity:
    """How near a reduced precision comes to fp32 of the same network, on photos that it was not calibrated with.

    `photos` is their number, `mean_levels` the mean absolute difference of the foreground in grey levels. `median_iou`
    and `low_iou` are the median and the fifth percentile of the intersection over union of the two subjects.
    """

    photos: int
    mean_levels: float
    median_iou: float
    low_iou: float


@dataclass(frozen=True)
class Model:
    """One model of the server. `untrained` means that its weights are random.

    `non_commercial` means that its licence forbids commercial use.
    `fidelity` is there if the model runs in bf16 or int8. `float_layers` are the layers of an int8 model that compute
    in float.
    """

    name: str
    kind: ModelKind
    labels: tuple[str, ...]
    input: ResizePolicy
    precision: str
    provider: str
    weights_sha256: str
    untrained: bool
    licence: str
    fidelity: Fidelity | None = None
    float_layers: tuple[str, ...] = ()
    non_commercial: bool = False


@dataclass(frozen=True)
class Limits:
    """The largest message in bytes, and the largest image in bytes and in pixels, that the server accepts."""

    max_message_bytes: int
    max_photo_bytes: int
    max_photo_pixels: int


@dataclass(frozen=True)
class Models:
    """The models of a server, the name of its default model, and its limits."""

    models: tuple[Model, ...]
    default: str
    limits: Limits


def parse_result(response: pb.RemoveBackgroundResponse, request_id: str) -> RemovalResult:
    """Returns the SDK's form of an answer."""
    execution, timings = response.execution, response.timings
    alpha = response.alpha
    return RemovalResult(
        image=response.image,
        format=_FORMATS.get(response.format, "unknown"),
        width=response.width,
        height=response.height,
        pixel_format=_PIXEL_FORMATS.get(response.pixel_format, "unknown"),
        alpha=alpha or None,
        subjects=tuple(_subject(subject) for subject in response.subjects),
        execution=Execution(
            execution.model,
            execution.weights_sha256,
            execution.provider,
            execution.precision,
            execution.batch_size,
            execution.untrained,
        ),
        timings=Timings(*(getattr(timings, stage.name).ToTimedelta() for stage in fields(Timings))),
        request_id=request_id,
    )


def _subject(subject: pb.Subject) -> Subject:
    box = subject.box
    return Subject(
        subject.label, subject.class_index, subject.coverage, BoundingBox(box.x, box.y, box.width, box.height)
    )


def parse_models(response: pb.ListModelsResponse) -> Models:
    """Returns the SDK's form of a list of models."""
    limits = response.limits
    return Models(
        tuple(_model(model) for model in response.models),
        response.default_model,
        Limits(limits.max_message_bytes, limits.max_photo_bytes, limits.max_photo_pixels),
    )


def _model(model: pb.Model) -> Model:
    return Model(
        model.name,
        _KINDS.get(model.kind, "unknown"),
        tuple(model.labels),
        _resize_policy(model.input),
        model.precision,
        model.provider,
        model.weights_sha256,
        model.untrained,
        model.licence,
        _fidelity(model.fidelity) if model.HasField("fidelity") else None,
        tuple(model.float_layers),
        model.non_commercial,
    )


def _fidelity(found: pb.Fidelity) -> Fidelity:
    return Fidelity(found.photos, found.mean_levels, found.median_iou, found.low_iou)


def _resize_policy(policy: pb.InputPolicy) -> ResizePolicy:
    match policy.WhichOneof("policy"):
        case "short_side":
            side = policy.short_side
            return ResizePolicy("short_side", short_side=side.short_side_px, max_long_side=side.max_long_side_px)
        case "letterbox":
            return ResizePolicy("letterbox", policy.letterbox.width_px, policy.letterbox.height_px)
        case "stretch":
            return ResizePolicy("stretch", policy.stretch.width_px, policy.stretch.height_px)
        case _:
            return ResizePolicy("unknown")
