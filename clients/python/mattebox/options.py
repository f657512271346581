"""What a caller can ask for: typed options, and how they become the contract's messages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias, TypeVar

from mattebox.v1 import background_removal_pb2 as pb

T = TypeVar("T")

MatteMethod: TypeAlias = Literal["guided", "gaussian", "grabcut", "none"]
ImageFormat: TypeAlias = Literal["png", "jpeg", "webp", "raw"]
PixelFormat: TypeAlias = Literal["rgb", "bgr", "rgba", "bgra", "gray"]
Size: TypeAlias = Literal["original", "model"] | int

COLORS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "pink": (255, 192, 203),
}  # red, green, blue, as CSS names them

_METHODS: dict[str, pb.MatteMethod.ValueType] = {
    "guided": pb.MATTE_METHOD_GUIDED,
    "gaussian": pb.MATTE_METHOD_GAUSSIAN,
    "grabcut": pb.MATTE_METHOD_GRABCUT,
    "none": pb.MATTE_METHOD_NONE,
}
_FORMATS: dict[str, pb.ImageFormat.ValueType] = {
    "png": pb.IMAGE_FORMAT_PNG,
    "jpeg": pb.IMAGE_FORMAT_JPEG,
    "webp": pb.IMAGE_FORMAT_WEBP,
    "raw": pb.IMAGE_FORMAT_RAW,
}
_PIXEL_FORMATS: dict[str, pb.PixelFormat.ValueType] = {
    "rgb": pb.PIXEL_FORMAT_RGB8,
    "bgr": pb.PIXEL_FORMAT_BGR8,
    "rgba": pb.PIXEL_FORMAT_RGBA8,
    "bgra": pb.PIXEL_FORMAT_BGRA8,
    "gray": pb.PIXEL_FORMAT_GRAY8,
}
_SIZES: dict[str, pb.SizeMode.ValueType] = {"original": pb.SIZE_MODE_ORIGINAL, "model": pb.SIZE_MODE_MODEL}


@dataclass(frozen=True)
class RawPhoto:
    """Bare pixels instead of an image file.

    Args:
        data: rows top to bottom without padding, 8 bits a channel: width x height x channels bytes.
        width: in pixels.
        height: in pixels.
        pixel_format: order of the channels.
    """

    data: bytes | bytearray | memoryview
    width: int
    height: int
    pixel_format: PixelFormat = "rgb"


PhotoSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | RawPhoto
"""A photo: the bytes of an image file, its path, an open binary file, or bare pixels."""


@dataclass(frozen=True)
class Background:
    """What replaces the old background. Made by one of the class methods."""

    _message: pb.Background

    @classmethod
    def color(cls, red: int, green: int, blue: int) -> Background:
        """One sRGB colour, each channel 0 to 255."""
        if min(red, green, blue) < 0:
            raise ValueError(f"background: a colour channel is negative: {red}, {green}, {blue}")
        return cls(pb.Background(color=pb.Color(red=red, green=green, blue=blue)))

    @classmethod
    def image(cls, picture: bytes | str | os.PathLike[str] | IO[bytes]) -> Background:
        """A picture that covers the output: bytes of an image file, its path, or an open binary file."""
        return cls(pb.Background(image=read_bytes(picture)))

    @classmethod
    def blur(cls, sigma: float = 0) -> Background:
        """The photo without its subject, blurred; `sigma` in output pixels, up to 200; 0 for the server's default."""
        return cls(pb.Background(blur=pb.Blur(sigma_px=sigma)))

    @classmethod
    def transparent(cls) -> Background:
        """None: the output has an alpha channel."""
        return cls(pb.Background(transparent=pb.Transparent()))

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Background:
        """A colour by name, "#rgb", "#rrggbb", "transparent", "blur", "blur:20" (sigma), or the path of a picture.

        Raises:
            ValueError: a word that is none of these.
            OSError: a path that can't be read.
        """
        if not isinstance(text, str):
            return cls.image(text)
        if text == "transparent":
            return cls.transparent()
        if text == "blur" or text.startswith("blur:"):
            return cls.blur(_parse_sigma(text))
        if text.startswith("#"):
            return cls.color(*_parse_hex(text))
        if text in COLORS:
            return cls.color(*COLORS[text])
        if not text or (not Path(text).exists() and "." not in text and os.sep not in text):
            known = f"no colour ({', '.join(COLORS)}, #rrggbb), no file, not transparent or blur"
            raise ValueError(f"background {text!r} is {known}")
        return cls.image(text)

    def to_message(self) -> pb.Background:
        """The contract's message."""
        return self._message


def _parse_sigma(text: str) -> float:
    _, colon, sigma = text.partition(":")
    if not colon:
        return 0
    try:
        return float(sigma)
    except ValueError:
        raise ValueError(f"background {text!r} must be blur or blur:SIGMA, such as blur:20") from None


def _parse_hex(text: str) -> tuple[int, int, int]:
    digits = text[1:]
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError as error:
        raise ValueError(f"background {text!r} must be #rgb or #rrggbb") from error
    return red, green, blue


@dataclass(frozen=True)
class Output:
    """What comes back.

    Args:
        format: of the composite.
        quality: 1 to 100, for jpeg and webp; None for the server's default.
        size: "original", "model" (what the network saw), or the longest side in pixels.
        crop: margin in pixels around the subject to which the output is cut; None for the whole frame.
        include_alpha: send the matte beside the composite.
        alpha_only: send the matte instead of a composite.
    """

    format: ImageFormat = "png"
    quality: int | None = None
    size: Size = "original"
    crop: int | None = None
    include_alpha: bool = False
    alpha_only: bool = False

    def to_message(self) -> pb.Output:
        """The contract's message."""
        message = pb.Output(
            format=_lookup(_FORMATS, self.format, "output.format"),
            include_alpha=self.include_alpha,
            alpha_only=self.alpha_only,
        )
        if self.quality is not None:
            message.quality = _in_range(self.quality, 1, 100, "output.quality")
        if isinstance(self.size, int):
            message.longest_side_px = _in_range(self.size, 1, 2**31, "output.size")
        else:
            message.size_mode = _lookup(_SIZES, self.size, "output.size")
        if self.crop is not None:
            message.crop.margin_px = _in_range(self.crop, 0, 10_000, "output.crop")
        return message


@dataclass(frozen=True)
class Matte:
    """How the matte is made, where the name of a method doesn't say enough.

    Args:
        method: None for the server's default.
        blur_kernel: side of the Gaussian kernel in pixels of the model's input, odd, 1 to 99, for "gaussian" only;
            None for the server's default.
        keep_edge_colors: leave the photo's own colours in the edge instead of estimating the subject's.
    """

    method: MatteMethod | None = None
    blur_kernel: int | None = None
    keep_edge_colors: bool = False

    def to_message(self) -> pb.Matte:
        """The contract's message."""
        message = pb.Matte(keep_edge_colors=self.keep_edge_colors)
        if self.method is not None:
            message.method = _lookup(_METHODS, self.method, "matte")
        if self.blur_kernel is not None:
            message.blur_kernel_px = _in_range(self.blur_kernel, 1, 99, "matte.blur_kernel")
        return message


@dataclass(frozen=True)
class RemovalOptions:
    """Everything that one call can say beside the photo."""

    model: str
    keep: str | Iterable[str]
    matte: MatteMethod | Matte | None
    background: Background | str | os.PathLike[str]
    output: Output


def build_request(photo: PhotoSource, options: RemovalOptions) -> pb.RemoveBackgroundRequest:
    """The contract's message of one call.

    Raises:
        OSError: photo or picture can't be read.
        ValueError, TypeError: an option that needs no server to be known as wrong.
    """
    if not isinstance(options.output, Output):  # pyright: ignore[reportUnnecessaryIsInstance] - not all check types
        raise TypeError(f"output must be a mattebox.Output, not {type(options.output).__name__}")
    request = pb.RemoveBackgroundRequest(
        model=options.model,
        keep=(options.keep,) if isinstance(options.keep, str) else tuple(options.keep),  # a string is one label
        output=options.output.to_message(),
    )
    matte = options.matte if isinstance(options.matte, Matte) else Matte(options.matte)
    request.matte.CopyFrom(matte.to_message())
    background = options.background
    message = (background if isinstance(background, Background) else Background.parse(background)).to_message()
    # White is the server's default, and a matte alone has no background: saying it would contradict alpha_only.
    if not (options.output.alpha_only and background == "white"):
        request.background.CopyFrom(message)
    if isinstance(photo, RawPhoto):
        request.raw.CopyFrom(_raw_message(photo))
    else:
        request.encoded = read_bytes(photo)
    return request


def _raw_message(photo: RawPhoto) -> pb.RawImage:
    if not isinstance(photo.data, bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"photo.data must be bytes, not {type(photo.data).__name__}")
    pixel_format = _lookup(_PIXEL_FORMATS, photo.pixel_format, "photo.pixel_format")
    return pb.RawImage(
        width=_in_range(photo.width, 1, 2**31, "photo.width"),
        height=_in_range(photo.height, 1, 2**31, "photo.height"),
        pixel_format=pixel_format,
        data=bytes(photo.data),
    )


def read_bytes(source: bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]) -> bytes:
    """The bytes of a file that is given as bytes, path or open binary file."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise ValueError("the path is empty")
        return Path(source).read_bytes()
    if not hasattr(source, "read"):
        raise TypeError(f"expected bytes, a path or a binary file, not {type(source).__name__}")
    data = source.read()
    if isinstance(data, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller has a type checker
        raise TypeError("the file is open as text; open it with mode 'rb'")
    return data


def _lookup(table: dict[str, T], word: str, option: str) -> T:
    if word not in table:
        raise ValueError(f"{option} {word!r} must be one of {', '.join(table)}")
    return table[word]


def _in_range(value: int, low: int, high: int, option: str) -> int:
    if not low <= value <= high:
        raise ValueError(f"{option} must be {low} to {high}, not {value}")
    return value
