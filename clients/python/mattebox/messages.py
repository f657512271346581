"""Options and photos to the contract's message, and what is wrong with them, in the server's words.

The checks are those of the server, so that a mistake reads the same wherever it is found; all are found in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from mattebox.errors import FieldViolation, InvalidRequest
from mattebox.options import Background, Matte, Output, RemovalOptions
from mattebox.photos import PhotoSource, RawPhoto, read_photo
from mattebox.v1 import background_removal_pb2 as pb

T = TypeVar("T")

MAX_KEEP = 256
MAX_BLUR_KERNEL_PX = 99
MAX_BLUR_SIGMA_PX = 200.0
MAX_MARGIN_PX = 10_000
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
_PIXEL_FORMATS: dict[str, tuple[pb.PixelFormat.ValueType, int]] = {
    "rgb": (pb.PIXEL_FORMAT_RGB8, 3),
    "bgr": (pb.PIXEL_FORMAT_BGR8, 3),
    "rgba": (pb.PIXEL_FORMAT_RGBA8, 4),
    "bgra": (pb.PIXEL_FORMAT_BGRA8, 4),
    "gray": (pb.PIXEL_FORMAT_GRAY8, 1),
}
_SIZES: dict[str, pb.SizeMode.ValueType] = {"original": pb.SIZE_MODE_ORIGINAL, "model": pb.SIZE_MODE_MODEL}


class _Violations:
    """Collects what is wrong."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def check(self, fine: bool, field: str, description: str) -> None:
        if not fine:
            self._found.append(FieldViolation(field, description))

    def word(self, table: Mapping[str, T], word: str, field: str) -> T | None:
        """What a word stands for."""
        self.check(word in table, field, f"must be one of {', '.join(table)}, not {word!r}")
        return table.get(word)

    def uint32(self, value: int, field: str, least: int, most: int = _MAX_UINT32) -> int:
        """A number that the contract can hold, for which 0 would mean the default."""
        self.check(value >= least, field, f"must be {least} or more" + (f", not {value}" if value < 0 else ""))
        self.check(value <= most, field, f"must be at most {most}, not {value}")
        return _fitting(value)

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidRequest.of(*((violation.field, violation.description) for violation in self._found))


def _fitting(value: int) -> int:
    """What the contract's field can hold of it."""
    return min(max(value, 0), _MAX_UINT32)


def options_message(options: RemovalOptions) -> pb.RemoveBackgroundRequest:
    """The contract's message of a call, without its photo.

    Raises:
        InvalidRequest: with everything that is wrong.
        OSError: the background's picture can't be read.
        TypeError: an option is of a wrong type.
    """
    wrong = _Violations()
    message = _options_message(options, wrong)
    wrong.raise_if_any()
    return message


def with_photo(options: pb.RemoveBackgroundRequest, photo: PhotoSource) -> pb.RemoveBackgroundRequest:
    """A message of its own with a photo in it. Raises InvalidRequest, OSError, TypeError, ValueError."""
    wrong = _Violations()
    message = _with_photo(options, photo, wrong)
    wrong.raise_if_any()
    return message


def build_request(photo: PhotoSource, options: RemovalOptions) -> pb.RemoveBackgroundRequest:
    """The contract's message of one call. Raises as the two parts do."""
    wrong = _Violations()
    message = _with_photo(_options_message(options, wrong), photo, wrong)
    wrong.raise_if_any()
    return message


def _options_message(options: RemovalOptions, wrong: _Violations) -> pb.RemoveBackgroundRequest:
    output = options.output or Output()
    if not isinstance(output, Output):  # pyright: ignore[reportUnnecessaryIsInstance] - not all check types
        raise TypeError(f"output must be a mattebox.Output, not {type(output).__name__}")
    matte = options.matte if isinstance(options.matte, Matte) else Matte(options.matte)
    background = options.background
    # White is the server's default, and a matte alone has no background: saying it would contradict alpha_only.
    unsaid = output.alpha_only and background == "white"
    if not isinstance(background, Background):
        background = Background.parse(background)
    keep = (options.keep,) if isinstance(options.keep, str) else tuple(options.keep)  # a string is one label
    wrong.check(len(keep) <= MAX_KEEP, "keep", f"has {len(keep)} labels, the limit is {MAX_KEEP}")
    request = pb.RemoveBackgroundRequest(model=options.model, keep=keep, matte=_matte_message(matte, wrong))
    if not unsaid:
        request.background.CopyFrom(_background_message(background, wrong))
    request.output.CopyFrom(_output_message(output, wrong))
    _check_contradictions(request, matte, wrong)
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
        wrong.check(len(read) > 0, "encoded", "is empty")
        request.encoded = read
    return request


def _matte_message(matte: Matte, wrong: _Violations) -> pb.Matte:
    message = pb.Matte(keep_edge_colors=matte.keep_edge_colors)
    if matte.method is not None:
        message.method = wrong.word(_METHODS, matte.method, "matte.method") or pb.MATTE_METHOD_UNSPECIFIED
    name = (matte.method or "guided").upper()
    if matte.blur_kernel is not None:
        kernel, field = matte.blur_kernel, "matte.blur_kernel_px"
        fine = kernel % 2 == 1 and 1 <= kernel <= MAX_BLUR_KERNEL_PX
        wrong.check(fine, field, f"must be odd and at most {MAX_BLUR_KERNEL_PX}, not {kernel}")
        wrong.check(name == "GAUSSIAN", field, "is for the method GAUSSIAN only")
        message.blur_kernel_px = _fitting(kernel)
    if matte.keep_edge_colors:
        what = f"is for GUIDED and GRABCUT only: {name} keeps them anyway"
        wrong.check(name not in {"GAUSSIAN", "NONE"}, "matte.keep_edge_colors", what)
    return message


def _background_message(background: Background, wrong: _Violations) -> pb.Background:
    message = pb.Background()
    match background.kind:
        case "color":
            for name, value in zip(("red", "green", "blue"), background.rgb or (), strict=False):
                setattr(message.color, name, wrong.uint32(value, f"background.color.{name}", 0, 255))
            message.color.SetInParent()
        case "image":
            message.image = background.data or b""
        case "blur":
            message.blur.SetInParent()
            if background.sigma is not None:
                fine = 0 < background.sigma <= MAX_BLUR_SIGMA_PX  # NaN is not
                what = f"must be above 0 and at most {MAX_BLUR_SIGMA_PX:g}, not {background.sigma:g}"
                wrong.check(fine, "background.blur.sigma_px", what)
                message.blur.sigma_px = background.sigma
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
        fine = 1 <= output.quality <= 100
        wrong.check(fine, "output.quality", f"must be 1 to 100, not {output.quality}")
        message.quality = _fitting(output.quality)
    if output.crop is not None:
        message.crop.margin_px = wrong.uint32(output.crop, "output.crop.margin_px", 0, MAX_MARGIN_PX)
    if isinstance(output.size, int):
        message.longest_side_px = wrong.uint32(output.size, "output.longest_side_px", 1)
    else:
        known = output.size in _SIZES
        what = f"must be original, model or a number of pixels, not {output.size!r}"
        wrong.check(known, "output.size_mode", what)
        message.size_mode = _SIZES[output.size] if known else pb.SIZE_MODE_UNSPECIFIED
    return message


def _check_contradictions(request: pb.RemoveBackgroundRequest, matte: Matte, wrong: _Violations) -> None:
    """An option that would have no effect is refused rather than ignored."""
    output = request.output
    name = pb.ImageFormat.Name(output.format).removeprefix("IMAGE_FORMAT_")
    lossy = output.format in (pb.IMAGE_FORMAT_JPEG, pb.IMAGE_FORMAT_WEBP)
    wrong.check(lossy or not output.quality, "output.quality", f"is for JPEG and WEBP only, not for {name}")
    opaque = output.format == pb.IMAGE_FORMAT_JPEG and not output.include_alpha
    what = f"{name} can't be transparent: choose PNG, WEBP or RAW, or a background, or include_alpha beside it"
    wrong.check(not (opaque and request.background.HasField("transparent")), "output.format", what)
    if output.alpha_only:
        what = "makes no sense together with alpha_only"
        wrong.check(not output.include_alpha, "output.include_alpha", what)
        what = "makes no sense together with output.alpha_only"
        wrong.check(not request.HasField("background"), "background", what)
        wrong.check(not matte.keep_edge_colors, "matte.keep_edge_colors", what)


def _raw_message(photo: RawPhoto, wrong: _Violations) -> pb.RawImage:
    width = wrong.uint32(photo.width, "raw.width", 1)
    height = wrong.uint32(photo.height, "raw.height", 1)
    known = wrong.word(_PIXEL_FORMATS, photo.pixel_format, "raw.pixel_format")
    pixel_format, channels = known or (pb.PIXEL_FORMAT_UNSPECIFIED, 0)
    data = bytes(photo.data)
    expected = photo.width * photo.height * channels
    what = f"has {len(data)} bytes, {width}x{height} {photo.pixel_format.upper()}8 needs {expected}"
    wrong.check(known is None or len(data) == expected, "raw.data", what)
    return pb.RawImage(width=width, height=height, pixel_format=pixel_format, data=data)
