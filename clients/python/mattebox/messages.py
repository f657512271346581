"""Options and photos to the contract's message.

This module finds only what a message can't express: words that have no value in the contract, and numbers that a field
can't hold or that would mean the server's default. The server finds everything else, and names each field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from mattebox.errors import FieldViolation, InvalidRequest
from mattebox.options import Background, Matte, Output, RemovalOptions
from mattebox.photos import PhotoSource, RawPhoto, read_photo
from mattebox.v1 import background_removal_pb2 as pb

T = TypeVar("T")

_MAX_UINT32 = 2**32 - 1

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


class _Violations:
    """Collects what a message can't express."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def check(self, fine: bool, field: str, description: str) -> None:
        if not fine:
            self._found.append(FieldViolation(field, description))

    def word(self, table: Mapping[str, T], word: str, field: str) -> T | None:
        """Returns the value that a word stands for; None if there is none."""
        self.check(word in table, field, f"must be one of {', '.join(table)}, not {word!r}")
        return table.get(word)

    def uint32(self, value: int, field: str, least: int) -> int:
        """Returns a number that a field can hold; `least` is 1 where 0 would mean the server's default."""
        fine = least <= value <= _MAX_UINT32
        bound = f"{least} or more" if value < least else f"at most {_MAX_UINT32}"
        self.check(fine, field, f"must be {bound}, not {value}")
        return value if fine else least

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidRequest.of(*((violation.field, violation.description) for violation in self._found))


def options_message(options: RemovalOptions) -> pb.RemoveBackgroundRequest:
    """Returns the message of a call without its photo.

    Raises:
        InvalidRequest: options that a message can't express; all of them are named.
        OSError: the background's picture can't be read.
        TypeError: an option is of a wrong type.
    """
    wrong = _Violations()
    message = _options_message(options, wrong)
    wrong.raise_if_any()
    return message


def with_photo(options: pb.RemoveBackgroundRequest, photo: PhotoSource) -> pb.RemoveBackgroundRequest:
    """Returns a copy of a message with a photo in it. Raises InvalidRequest, OSError, TypeError and ValueError."""
    wrong = _Violations()
    message = _with_photo(options, photo, wrong)
    wrong.raise_if_any()
    return message


def build_request(photo: PhotoSource, options: RemovalOptions) -> pb.RemoveBackgroundRequest:
    """Returns the message of one call. Raises what `options_message` and `with_photo` raise."""
    wrong = _Violations()
    message = _with_photo(_options_message(options, wrong), photo, wrong)
    wrong.raise_if_any()
    return message


def _options_message(options: RemovalOptions, wrong: _Violations) -> pb.RemoveBackgroundRequest:
    output = options.output or Output()
    if not isinstance(output, Output):  # pyright: ignore[reportUnnecessaryIsInstance] - not all check types
        raise TypeError(f"output must be a mattebox.Output, not {type(output).__name__}")
    matte = options.matte if isinstance(options.matte, Matte) else Matte(options.matte)
    keep = (options.keep,) if isinstance(options.keep, str) else tuple(options.keep)  # a string is one label
    request = pb.RemoveBackgroundRequest(model=options.model, keep=keep, matte=_matte_message(matte, wrong))
    # White is the server's default, and a matte alone has no background: sending white would contradict alpha_only.
    if not (output.alpha_only and options.background == "white"):
        request.background.CopyFrom(_background_message(options.background, wrong))
    request.output.CopyFrom(_output_message(output, wrong))
    return request


def _with_photo(
    options: pb.RemoveBackgroundRequest, photo: PhotoSource, wrong: _Violations
) -> pb.RemoveBackgroundRequest:
    read = read_photo(photo)
    request = pb.RemoveBackgroundRequest()
    request.CopyFrom(options)
    if isinstance(read, RawPhoto):
        request.raw.CopyFrom(_raw_message(read, wrong))
    else:
        request.encoded = read
    return request


def _matte_message(matte: Matte, wrong: _Violations) -> pb.Matte:
    message = pb.Matte(keep_edge_colors=matte.keep_edge_colors)
    if matte.method is not None:
        message.method = wrong.word(_METHODS, matte.method, "matte.method") or pb.MATTE_METHOD_UNSPECIFIED
    if matte.blur_kernel is not None:
        message.blur_kernel_px = wrong.uint32(matte.blur_kernel, "matte.blur_kernel_px", 1)
    return message


def _background_message(given: Background | str | os.PathLike[str], wrong: _Violations) -> pb.Background:
    background = given if isinstance(given, Background) else Background.parse(given)
    message = pb.Background()
    match background.kind:
        case "color":
            for name, value in zip(("red", "green", "blue"), background.rgb or (), strict=False):
                setattr(message.color, name, wrong.uint32(value, f"background.color.{name}", 0))
            message.color.SetInParent()
        case "image":
            message.image = background.data or b""
        case "blur":
            message.blur.SetInParent()
            if background.sigma is not None:
                message.blur.sigma_px = background.sigma
                what = f"must be above 0, not {background.sigma:g}"  # 0 would mean the server's default
                wrong.check(message.blur.sigma_px != 0, "background.blur.sigma_px", what)
        case "transparent":
            message.transparent.SetInParent()
    return message


def _output_message(output: Output, wrong: _Violations) -> pb.Output:
    message = pb.Output(
        format=wrong.word(_FORMATS, output.format, "output.format") or pb.IMAGE_FORMAT_UNSPECIFIED,
        include_alpha=output.include_alpha,
        alpha_only=output.alpha_only,
    )
    if output.quality is not None:
        message.quality = wrong.uint32(output.quality, "output.quality", 1)
    if output.crop is not None:
        message.crop.margin_px = wrong.uint32(output.crop, "output.crop.margin_px", 0)
    if isinstance(output.size, int):
        message.longest_side_px = wrong.uint32(output.size, "output.longest_side_px", 0)
    else:
        known = output.size in _SIZES
        what = f"must be original, model or a number of pixels, not {output.size!r}"
        wrong.check(known, "output.size_mode", what)
        message.size_mode = _SIZES[output.size] if known else pb.SIZE_MODE_UNSPECIFIED
    return message


def _raw_message(photo: RawPhoto, wrong: _Violations) -> pb.RawImage:
    return pb.RawImage(
        width=wrong.uint32(photo.width, "raw.width", 0),
        height=wrong.uint32(photo.height, "raw.height", 0),
        pixel_format=wrong.word(_PIXEL_FORMATS, photo.pixel_format, "raw.pixel_format") or pb.PIXEL_FORMAT_UNSPECIFIED,
        data=bytes(photo.data),
    )
