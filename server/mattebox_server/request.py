"""One request in the words of the domain: what the service hands to the pipeline.

The service has checked every value; one that is out of range can't get this far.
"""

from dataclasses import dataclass, field
from enum import Enum

BYTES_A_PIXEL = 20
"""The memory that a photo takes at most for each of its pixels: itself, its matte, its composite, and the encoded
answer with gRPC's copy of it. Measured; only WebP's encoder takes up to 26 for a moment."""


class PixelFormat(Enum):
    """The layout of bare pixels with 8 bits a channel; the value names the channels in their order."""

    RGB8 = "rgb"
    BGR8 = "bgr"
    RGBA8 = "rgba"
    BGRA8 = "bgra"
    GRAY8 = "g"

    @property
    def channels(self) -> int:
        """The number of channels, each one byte a pixel."""
        return len(self.value)


class ImageFormat(Enum):
    """The format of the answer."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    RAW = "raw"

    @property
    def has_alpha(self) -> bool:
        """Whether the format can hold transparency."""
        return self is not ImageFormat.JPEG

    @property
    def is_lossy(self) -> bool:
        """Whether the format has a quality to choose."""
        return self in (ImageFormat.JPEG, ImageFormat.WEBP)


class MatteMethod(Enum):
    """The method that makes the matte."""

    GUIDED = "guided"
    GRABCUT = "grabcut"
    GAUSSIAN = "gaussian"
    NONE = "none"

    @property
    def restores_colors(self) -> bool:
        """Whether the method estimates the subject's own colours at its edge, unless the caller wants the photo's."""
        return self in (MatteMethod.GUIDED, MatteMethod.GRABCUT)


class SizeMode(Enum):
    """The size of the output, by name."""

    ORIGINAL = "original"
    MODEL = "model"


@dataclass(frozen=True)
class EncodedPhoto:
    """A whole image file."""

    data: bytes


@dataclass(frozen=True)
class RawPhoto:
    """Bare pixels: rows top to bottom, no padding."""

    data: bytes
    width_px: int
    height_px: int
    pixel_format: PixelFormat


@dataclass(frozen=True)
class MatteOptions:
    """How the matte is made.

    Args:
        method: the method.
        blur_kernel_px: the side of the Gaussian kernel in pixels of the model's input, odd, 1 to 99; for GAUSSIAN only.
        keep_edge_colors: leaves the photo's own colours in the edge, for the methods that restore colours.
    """

    method: MatteMethod = MatteMethod.GUIDED
    blur_kernel_px: int = 7
    keep_edge_colors: bool = False


@dataclass(frozen=True)
class ColorBackground:
    """A plain colour: blue, green and red, each in [0, 255]."""

    bgr: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class ImageBackground:
    """An image file that covers the output."""

    data: bytes


@dataclass(frozen=True)
class BlurBackground:
    """The photo itself without its subject, blurred with a Gaussian of `sigma_px` output pixels."""

    sigma_px: float = 12.0


@dataclass(frozen=True)
class TransparentBackground:
    """No background: the output has an alpha channel."""


Background = ColorBackground | ImageBackground | BlurBackground | TransparentBackground


@dataclass(frozen=True)
class OutputOptions:
    """What comes back.

    Args:
        format: the format of the composite.
        quality: the quality of a lossy format, in [1, 100].
        size: a named size, or the longest side in pixels.
        crop_margin_px: the space around the subject to which the output is cut, in pixels; None leaves the whole frame.
        include_alpha: sends the matte beside the composite.
        alpha_only: sends the matte instead of a composite.
    """

    format: ImageFormat = ImageFormat.PNG
    quality: int = 90
    size: SizeMode | int = SizeMode.ORIGINAL
    crop_margin_px: int | None = None
    include_alpha: bool = False
    alpha_only: bool = False


@dataclass(frozen=True)
class RemovalRequest:
    """One photo and what to do with it.

    Args:
        photo: the photo.
        model: the name of the model; "" for the default one.
        keep: the labels of the subject; empty for everything but the background.
        matte: how the matte is made.
        background: what replaces the old background.
        output: what comes back.
    """

    photo: EncodedPhoto | RawPhoto
    model: str = ""
    keep: tuple[str, ...] = ()
    matte: MatteOptions = field(default_factory=MatteOptions)
    background: Background = field(default_factory=ColorBackground)
    output: OutputOptions = field(default_factory=OutputOptions)
