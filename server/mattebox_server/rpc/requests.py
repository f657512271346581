"""Turns the contract's request into the domain's, and checks each of its fields. Knows protobuf, not gRPC.

Every field that is wrong is found in one pass, so that a caller reads all mistakes at once.
"""

from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.errors import InvalidRequest, Violation
from mattebox_server.request import (
    Background,
    BlurBackground,
    ColorBackground,
    EncodedPhoto,
    ImageBackground,
    ImageFormat,
    MatteMethod,
    MatteOptions,
    OutputOptions,
    PixelFormat,
    RawPhoto,
    RemovalRequest,
    SizeMode,
    TransparentBackground,
)

MAX_KEEP = 256
MAX_BLUR_KERNEL_PX = 99
MAX_BLUR_SIGMA_PX = 200.0
MAX_MARGIN_PX = 10_000

_PIXEL_FORMATS = {pb.PixelFormat.Value(f"PIXEL_FORMAT_{each.name}"): each for each in PixelFormat}
_IMAGE_FORMATS = {pb.ImageFormat.Value(f"IMAGE_FORMAT_{each.name}"): each for each in ImageFormat}
_MATTE_METHODS = {pb.MatteMethod.Value(f"MATTE_METHOD_{each.name}"): each for each in MatteMethod}
_SIZE_MODES = {pb.SizeMode.Value(f"SIZE_MODE_{each.name}"): each for each in SizeMode}


class _Violations:
    """Collects what is wrong with a message."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        self._found.append(Violation(field, description))

    def check(self, fine: bool, field: str, description: str) -> None:
        if not fine:
            self.add(field, description)

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidRequest(*self._found)


def parse_request(message: pb.RemoveBackgroundRequest) -> RemovalRequest:
    """Checks a request as far as is possible without its model and its image headers.

    Raises:
        InvalidRequest: fields are wrong; it names all of them.
    """
    wrong = _Violations()
    wrong.check(len(message.keep) <= MAX_KEEP, "keep", f"has {len(message.keep)} labels, the limit is {MAX_KEEP}")
    photo = _parse_photo(message, wrong)
    matte = _parse_matte(message.matte, wrong)
    background = _parse_background(message.background, wrong)
    output = _parse_output(message.output, wrong)
    _check_contradictions(message, background, output, wrong)
    wrong.raise_if_any()
    return RemovalRequest(photo, message.model, tuple(message.keep), matte, background, output)


def _parse_photo(message: pb.RemoveBackgroundRequest, wrong: _Violations) -> EncodedPhoto | RawPhoto:
    match message.WhichOneof("photo"):
        case "encoded":
            return EncodedPhoto(message.encoded)  # every access copies the bytes: read them once
        case "raw":
            return _parse_raw(message.raw, wrong)
        case _:
            wrong.add("photo", "is missing")
            return EncodedPhoto(b"")


def _parse_raw(raw: pb.RawImage, wrong: _Violations) -> RawPhoto:
    wrong.check(raw.width > 0, "raw.width", "must be 1 or more")
    wrong.check(raw.height > 0, "raw.height", "must be 1 or more")
    data = raw.data
    pixel_format = _PIXEL_FORMATS.get(raw.pixel_format)
    if pixel_format is None:
        wrong.add("raw.pixel_format", "is missing or unknown")
        return RawPhoto(data, raw.width, raw.height, PixelFormat.BGR8)
    expected = raw.width * raw.height * pixel_format.channels
    what = f"has {len(data)} bytes, {raw.width}x{raw.height} {pixel_format.name} needs {expected}"
    wrong.check(len(data) == expected, "raw.data", what)
    return RawPhoto(data, raw.width, raw.height, pixel_format)


def _parse_matte(matte: pb.Matte, wrong: _Violations) -> MatteOptions:
    default, kernel = MatteOptions(), matte.blur_kernel_px
    method = _MATTE_METHODS.get(matte.method, default.method)
    wrong.check(matte.method in pb.MatteMethod.values(), "matte.method", "is unknown")
    if kernel:
        what = f"must be odd and at most {MAX_BLUR_KERNEL_PX}, not {kernel}"
        wrong.check(kernel % 2 == 1 and kernel <= MAX_BLUR_KERNEL_PX, "matte.blur_kernel_px", what)
        wrong.check(method is MatteMethod.GAUSSIAN, "matte.blur_kernel_px", "is for the method GAUSSIAN only")
    if matte.keep_edge_colors:
        what = f"is for GUIDED and GRABCUT only: {method.name} keeps them anyway"
        wrong.check(method.restores_colors, "matte.keep_edge_colors", what)
    return MatteOptions(method, kernel or default.blur_kernel_px, matte.keep_edge_colors)


def _parse_background(background: pb.Background, wrong: _Violations) -> Background:
    match background.WhichOneof("kind"):
        case "color":
            color = background.color
            channels = {"red": color.red, "green": color.green, "blue": color.blue}
            for name, value in channels.items():
                wrong.check(value <= 255, f"background.color.{name}", f"must be at most 255, not {value}")
            return ColorBackground((color.blue, color.green, color.red))
        case "image":
            return ImageBackground(background.image)
        case "transparent":
            return TransparentBackground()
        case "blur":
            return _parse_blur(background.blur.sigma_px, wrong)
        case _:
            return ColorBackground()


def _parse_blur(sigma_px: float, wrong: _Violations) -> BlurBackground:
    if sigma_px == 0:
        return BlurBackground()
    fine = 0 < sigma_px <= MAX_BLUR_SIGMA_PX  # NaN is not
    what = f"must be above 0 and at most {MAX_BLUR_SIGMA_PX:g}, not {sigma_px:g}"
    wrong.check(fine, "background.blur.sigma_px", what)
    return BlurBackground(sigma_px)


def _parse_output(output: pb.Output, wrong: _Violations) -> OutputOptions:
    default = OutputOptions()
    image_format = _IMAGE_FORMATS.get(output.format, default.format)
    wrong.check(output.format in pb.ImageFormat.values(), "output.format", "is unknown")
    wrong.check(output.quality <= 100, "output.quality", f"must be 1 to 100, not {output.quality}")
    margin = output.crop.margin_px if output.HasField("crop") else None
    what = f"must be at most {MAX_MARGIN_PX}, not {margin}"
    wrong.check(margin is None or margin <= MAX_MARGIN_PX, "output.crop.margin_px", what)
    size: SizeMode | int = default.size
    match output.WhichOneof("size"):
        case "size_mode":
            size = _SIZE_MODES.get(output.size_mode, default.size)
            wrong.check(output.size_mode in pb.SizeMode.values(), "output.size_mode", "is unknown")
        case "longest_side_px":
            size = output.longest_side_px
            wrong.check(size > 0, "output.longest_side_px", "must be 1 or more")
        case _:
            pass
    quality = output.quality or default.quality
    return OutputOptions(image_format, quality, size, margin, output.include_alpha, output.alpha_only)


def _check_contradictions(
    message: pb.RemoveBackgroundRequest, background: Background, output: OutputOptions, wrong: _Violations
) -> None:
    """Refuses options that would have no effect, instead of ignoring them."""
    name = output.format.name
    if message.output.quality and not output.format.is_lossy:
        wrong.add("output.quality", f"is for JPEG and WEBP only, not for {name}")
    if isinstance(background, TransparentBackground) and not (output.format.has_alpha or output.include_alpha):
        what = f"{name} can't be transparent: choose PNG, WEBP or RAW, or a background, or include_alpha beside it"
        wrong.add("output.format", what)
    if output.alpha_only and output.include_alpha:
        wrong.add("output.include_alpha", "makes no sense together with alpha_only")
    if output.alpha_only and message.background.WhichOneof("kind") is not None:
        wrong.add("background", "makes no sense together with output.alpha_only")
    if output.alpha_only and message.matte.keep_edge_colors:
        wrong.add("matte.keep_edge_colors", "makes no sense together with output.alpha_only")
