"""The spec of a model, which the model's file holds itself.

A model is one `.onnx` file. Its metadata property `mattebox.spec` holds the spec as JSON: the exporter writes it, the
server reads it, and no fact about the model is kept in a second place.

| kind | inputs | outputs |
|---|---|---|
| `semantic` | `image` uint8 [N,H,W,3], `keep` float32 [N,C], 1 = subject | `foreground`, `classes` uint8 [N,H,W] |
| `saliency` | `image` uint8 [N,H,W,3] | `foreground` uint8 [N,H,W] |

N photos share a batch, H and W are the height and width in pixels, C is the number of labels. `foreground` is
round(255 x probability of the subject), `classes` is the index of the likeliest class of each pixel.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

METADATA_KEY = "mattebox.spec"
BACKGROUND = "background"
MAX_LABELS = 256  # class indices leave the graph as uint8

Side = Annotated[int, Field(ge=1, le=8192)]
Kind = Literal["semantic", "saliency"]
Precision = Literal["fp32", "fp16", "int8"]
MAX_MEAN_LEVELS, MIN_MEDIAN_IOU, MIN_LOW_IOU = 2.0, 0.98, 0.80  # the gate of `Fidelity`
Target = Literal["cpu", "openvino", "cuda"]
"""The execution provider for which the exporter wrote the graph; `cuda` also stands for TensorRT.

Other providers compute the same from the graph, but more slowly.
"""


class SpecError(ValueError):
    """The file's metadata hold no spec, or one that this version of Mattebox can't read."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShortSide(_Frozen):
    """Photos are resized so that their short side has `short_side_px`, and keep their aspect ratio.

    `max_long_side_px` bounds the cost of panoramas: if the long side would be longer, the photo is made smaller, as
    torchvision's `Resize(size, max_size)` does.
    """

    policy: Literal["short_side"] = "short_side"
    short_side_px: Side
    max_long_side_px: Side

    @model_validator(mode="after")
    def _ordered(self) -> "ShortSide":
        if self.max_long_side_px < self.short_side_px:
            raise ValueError("max_long_side_px is below short_side_px")
        return self


class Stretch(_Frozen):
    """Photos are resized to a fixed width and height, and lose their aspect ratio."""

    policy: Literal["stretch"] = "stretch"
    width_px: Side
    height_px: Side


class Letterbox(_Frozen):
    """Photos are resized to fit into a fixed frame, centred, and keep their aspect ratio.

    `fill` is the grey level, from 0 to 255, of the frame beside the photo.
    """

    policy: Literal["letterbox"] = "letterbox"
    width_px: Side
    height_px: Side
    fill: Annotated[int, Field(ge=0, le=255)] = 114


Resize = Annotated[ShortSide | Stretch | Letterbox, Field(discriminator="policy")]


class Weights(_Frozen):
    """The origin of the network's weights.

    `trained` is false if the weights are random numbers, which only benchmarks and tests use.
    """

    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    trained: bool


class Expectation(_Frozen):
    """The network's answer to the check photo, a synthetic one that `mattebox_server.engine.selfcheck` makes.

    `foreground` (with all classes but the background as the subject) and `classes` are samples of the network's two
    outputs, as bytes in base64; `classes` is None for a saliency model.
    """

    height_px: Side
    width_px: Side
    seed: Annotated[int, Field(ge=0)]
    foreground: str
    classes: str | None


class Fidelity(_Frozen):
    """How near a reduced precision comes to fp32 of the same network, on photos that it wasn't calibrated with.

    `photos` is their number. `mean_levels` is the mean absolute difference of the foreground, in grey levels. The
    intersection over union of the two subjects (foreground of 128 or more) is taken for each photo: `median_iou` is its
    median, `low_iou` its fifth percentile.
    """

    photos: Annotated[int, Field(ge=1)]
    mean_levels: Annotated[float, Field(ge=0, le=255)]
    median_iou: Annotated[float, Field(ge=0, le=1)]
    low_iou: Annotated[float, Field(ge=0, le=1)]

    @property
    def passes(self) -> bool:
        """Whether the precision may be used in the place of fp32."""
        return self.mean_levels <= MAX_MEAN_LEVELS and self.median_iou >= MIN_MEDIAN_IOU and self.low_iou >= MIN_LOW_IOU

    def __str__(self) -> str:
        return (
            f"{self.mean_levels:.2f} grey levels from fp32 (at most {MAX_MEAN_LEVELS:g}), IoU {self.median_iou:.3f} in"
            f" the median (at least {MIN_MEDIAN_IOU:.2f}) and {self.low_iou:.3f} at the fifth percentile (at least"
            f" {MIN_LOW_IOU:.2f}), on {self.photos} photos"
        )


class Quantisation(_Frozen):
    """How an int8 network came to be: by which photos or table, and what stayed in float.

    `float_layers` are the names of the convolutions and matrix products that compute in float.
    """

    calibration: str
    float_layers: tuple[str, ...]
    fidelity: Fidelity


class ModelSpec(_Frozen):
    """All facts about a model that the server needs.

    `channel_order` is the order of the colours in the input `image`: bgr, as OpenCV decodes photos. The graph itself
    reorders them if the network inside needs RGB. `quantisation` is there for int8 only. `bf16` says how near the
    network comes to fp32 in bf16, and is None where that wasn't judged; an fp32 model runs in bf16 only if it passes.
    `non_commercial` says that the licence forbids commercial use.
    """

    spec_version: Literal[3] = 3
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Kind
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_LABELS)]
    channel_order: Literal["bgr"] = "bgr"
    resize: Resize
    precision: Precision
    target: Target
    quantisation: Quantisation | None = None
    bf16: Fidelity | None = None
    weights: Weights
    licence: str
    non_commercial: bool = False
    tools: dict[str, str]
    expectation: Expectation | None = None  # None only until the exporter has run the network

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> "ModelSpec":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if self.kind == "semantic" and BACKGROUND not in self.labels:
            raise ValueError(f"a semantic model needs a label {BACKGROUND!r}")
        if self.kind == "saliency" and len(self.labels) != 1:
            raise ValueError("a saliency model has exactly one label")
        return self

    @model_validator(mode="after")
    def _quantised_if_int8(self) -> "ModelSpec":
        if (self.precision == "int8") != (self.quantisation is not None):
            raise ValueError("quantisation belongs to int8 models, and to no others")
        return self

    @property
    def foreground_classes(self) -> frozenset[int]:
        """The indices of all labels but the background, which are the subject unless a request names labels."""
        return frozenset(index for index, label in enumerate(self.labels) if label != BACKGROUND)

    def to_json(self) -> str:
        """Returns the JSON that the file's metadata hold."""
        return self.model_dump_json()

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "ModelSpec":
        """Reads the spec from an ONNX file's metadata properties.

        Raises:
            SpecError: there is no spec, it has fields that this version doesn't know, or it has no expectation.
        """
        if METADATA_KEY not in metadata:
            raise SpecError(f"its metadata have no {METADATA_KEY}: wrap the network with `mattebox-export custom`")
        try:
            spec = cls.model_validate_json(metadata[METADATA_KEY])
        except ValidationError as error:
            raise SpecError(f"its {METADATA_KEY} is of another version, export it again: {error}") from error
        if spec.expectation is None:
            raise SpecError("it doesn't say what its network should answer to the check photo: export it again")
        return spec
