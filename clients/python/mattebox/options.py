"""The options of a removal, and backgrounds in words."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from mattebox.errors import InvalidRequest
from mattebox.photos import FileSource, read_file

MatteMethod: TypeAlias = Literal["guided", "gaussian", "grabcut", "none"]
ImageFormat: TypeAlias = Literal["png", "jpeg", "webp", "raw"]
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
}  # red, green and blue of the colours that have names, as CSS defines them


@dataclass(frozen=True)
class Background:
    """What replaces the old background. Each class method makes one kind.

    >>> mattebox.Background.blur(12)
    Background(kind='blur', sigma=12)
    """

    kind: Literal["color", "image", "blur", "transparent"]
    rgb: tuple[int, int, int] | None = None
    data: bytes | None = None
    sigma: float | None = None

    def __repr__(self) -> str:
        shown = {"rgb": self.rgb, "sigma": self.sigma, "data": self.data and f"<{len(self.data)} bytes>"}
        words = "".join(f", {name}={value}" for name, value in shown.items() if value is not None)
        return f"Background(kind={self.kind!r}{words})"

    @classmethod
    def color(cls, red: int, green: int, blue: int) -> Background:
        """One sRGB colour, each channel 0 to 255."""
        return cls("color", rgb=(red, green, blue))

    @classmethod
    def image(cls, picture: FileSource) -> Background:
        """A picture that covers the output: bytes of an image file, its path, or an open binary file."""
        return cls("image", data=read_file(picture))

    @classmethod
    def blur(cls, sigma: float | None = None) -> Background:
        """The photo without its subject, blurred.

        Args:
            sigma: the standard deviation of the Gaussian in output pixels, up to 200; None for the server's default.
        """
        return cls("blur", sigma=sigma)

    @classmethod
    def transparent(cls) -> Background:
        """No background: the output has an alpha channel."""
        return cls("transparent")

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Background:
        """Reads a background in words.

        Args:
            text: a colour by name, "#rgb", "#rrggbb", "transparent", "blur", "blur:20" (sigma), or a picture's path.

        Raises:
            InvalidRequest: the words are none of these.
            OSError: the picture can't be read.
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
            what = (
                f"{text!r} must be a colour ({', '.join(COLORS)}, #rrggbb), transparent, blur, or the path of a picture"
            )
            raise InvalidRequest.of(("background", what))
        return cls.image(text)


def _parse_sigma(text: str) -> float | None:
    _, colon, sigma = text.partition(":")
    if not colon:
        return None
    try:
        return float(sigma)
    except ValueError:
        what = f"{text!r} must be blur or blur:SIGMA, such as blur:20"
        raise InvalidRequest.of(("background", what)) from None


def _parse_hex(text: str) -> tuple[int, int, int]:
    digits = text[1:]
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError as error:
        raise InvalidRequest.of(("background", f"{text!r} must be #rgb or #rrggbb")) from error
    return red, green, blue


@dataclass(frozen=True)
class Output:
    """The form of the answer.

    Args:
        format: the format of the composite.
        quality: the quality of jpeg and webp, 1 to 100; None for the server's default.
        size: "original", "model" (the size that the network sees), or the longest side in pixels.
        crop: the margin in pixels around the subject, to which the output is cropped; None for no crop.
        include_alpha: whether the matte comes beside the composite.
        alpha_only: whether the matte comes instead of a composite.

    >>> mattebox.Output(format="jpeg", quality=85, size=1024)
    Output(format='jpeg', quality=85, size=1024, crop=None, include_alpha=False, alpha_only=False)
    """

    format: ImageFormat = "png"
    quality: int | None = None
    size: Size = "original"
    crop: int | None = None
    include_alpha: bool = False
    alpha_only: bool = False


@dataclass(frozen=True)
class Matte:
    """How the matte is made, in more detail than the name of a method.

    Args:
        method: the method; None for the server's default.
        blur_kernel: the side of the Gaussian kernel in pixels of the model's input, odd, 1 to 99, for "gaussian" only;
            None for the server's default.
        keep_edge_colors: whether the edge keeps the photo's colours, instead of estimated colours of the subject.
    """

    method: MatteMethod | None = None
    blur_kernel: int | None = None
    keep_edge_colors: bool = False


@dataclass(frozen=True)
class RemovalOptions:
    """The options of one removal; their meanings stand in `Client.remove_background`."""

    model: str = ""
    keep: str | Iterable[str] = ()
    matte: MatteMethod | Matte | None = None
    background: Background | str | os.PathLike[str] = "white"
    output: Output | None = None
