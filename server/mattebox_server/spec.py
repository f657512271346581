"""The model artifact's description of itself.

An artifact is one `.onnx` file. Its metadata property `mattebox.spec` holds this spec as JSON: the exporter writes it,
the server reads it, and no fact of the model stands anywhere else.

| kind | inputs | outputs |
|---|---|---|
| `semantic` | `image` uint8 [N,H,W,3], `keep` float32 [N,C], 1 = subject | `foreground`, `classes` uint8 [N,H,W] |
| `saliency` | `image` uint8 [N,H,W,3] | `foreground` uint8 [N,H,W] |

`foreground` is round(255 x probability of the subject); `classes` is the index of the likeliest class.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

METADATA_KEY = "mattebox.spec"
BACKGROUND = "background"
MAX_LABELS = 256  # class indices leave the graph as uint8

Side = Annotated[int, Field(ge=1, le=8192)]
Kind = Literal["semantic", "saliency"]
Precision = Literal["fp32", "fp16"]
Target = Literal["cpu", "openvino", "cuda"]
"""The execution provider that a graph's form was made for; cuda's serves TensorRT too. The others run it as well."""


class SpecError(ValueError):
    """The file is no Mattebox artifact, or one of another version."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShortSide(_Frozen):
    """The short side becomes `short_side_px`, the aspect is kept.

    `max_long_side_px` bounds what a panorama costs: beyond it the photo shrinks further, as with torchvision's
    `Resize(size, max_size)`.
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
    """Both sides get fixed lengths, the aspect is lost."""

    policy: Literal["stretch"] = "stretch"
    width_px: Side
    height_px: Side


class Letterbox(_Frozen):
    """The photo fits into a fixed frame, centred, the aspect kept, the rest filled with one grey level."""

    policy: Literal["letterbox"] = "letterbox"
    width_px: Side
    height_px: Side
    fill: Annotated[int, Field(ge=0, le=255)] = 114


Resize = Annotated[ShortSide | Stretch | Letterbox, Field(discriminator="policy")]


class Weights(_Frozen):
    """Where the numbers come from. `trained` false means random: for benchmarks and tests only."""

    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    trained: bool


class Expectation(_Frozen):
    """What the network says of one synthetic photo, see `mattebox_server.engine.selfcheck`.

    `foreground` (everything but the background kept) and `classes` hold samples of the maps, uint8 in base64.
    """

    height_px: Side
    width_px: Side
    seed: Annotated[int, Field(ge=0)]
    foreground: str
    classes: str | None


class ModelSpec(_Frozen):
    """Everything that the server must know of a model.

    `channel_order` is that of the input `image`: bgr, as OpenCV decodes it; the graph reorders where its core needs
    RGB.
    """

    spec_version: Literal[2] = 2
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Kind
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_LABELS)]
    channel_order: Literal["bgr"] = "bgr"
    resize: Resize
    precision: Precision
    target: Target
    weights: Weights
    licence: str
    tools: dict[str, str]
    expectation: Expectation | None = None  # known once the network has run; a file without one is refused

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> "ModelSpec":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if self.kind == "semantic" and BACKGROUND not in self.labels:
            raise ValueError(f"a semantic model needs a label {BACKGROUND!r}")
        if self.kind == "saliency" and len(self.labels) != 1:
            raise ValueError("a saliency model has exactly one label")
        return self

    @property
    def foreground_classes(self) -> frozenset[int]:
        """Indices of everything but the background: the subject, unless a caller says otherwise."""
        return frozenset(index for index, label in enumerate(self.labels) if label != BACKGROUND)

    def to_json(self) -> str:
        """The spec as it stands in the artifact."""
        return self.model_dump_json()

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "ModelSpec":
        """Reads the spec from an ONNX file's metadata properties.

        Raises:
            SpecError: there is none, or it is not of this version.
        """
        if METADATA_KEY not in metadata:
            raise SpecError(f"no {METADATA_KEY} in its metadata: wrap the network with `mattebox-export custom`")
        try:
            spec = cls.model_validate_json(metadata[METADATA_KEY])
        except ValidationError as error:
            raise SpecError(f"its {METADATA_KEY} is not of this version, export it again: {error}") from error
        if spec.expectation is None:
            raise SpecError("it doesn't say what its network should answer")
        return spec
