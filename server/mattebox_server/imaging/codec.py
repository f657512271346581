"""Image files to pixels and back.

OpenCV decodes what it can: it is 1.5 to 2.5 times as fast as Pillow at 12 MP, turns every depth and colour model into
8-bit BGR, and refuses truncated files. Pillow reads the header, which OpenCV offers no call for, and decodes what
OpenCV gets wrong (most kinds of transparency), can't do (colour profiles) or doesn't do everywhere (AVIF).

Of what a file holds beside its pixels nothing is passed on but the colour profile.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from mattebox_server.errors import BadPhoto, Violation
from mattebox_server.imaging import colors, headers, orientation, png, tiff
from mattebox_server.imaging.headers import FORMATS, Decoder, Header
from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.request import ImageFormat, PixelFormat, RawPhoto

_PIXELS_AT_ONCE = 262_144  # bounds the copies between Pillow's pixels and ours
_PILLOW_KNOWS_MORE = ("PNG", "TIFF", "BMP", "GIF")  # of JPEG and WebP both have the same library
_MAX_SLOW_BYTES = 4 * 2**20  # of a BMP with run lengths, which Pillow unpacks in Python: a second, at most
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True)
class Photo:
    """An upright photo.

    Args:
        bgr: uint8 (H, W, 3), blue, green, red.
        alpha: uint8 (H, W), the photo's own transparency, 255 opaque; None if it has none.
        profile: the RGB ICC profile that says what the numbers in `bgr` mean; None is sRGB, or not known.
    """

    bgr: Pixels
    alpha: Pixels | None = None
    profile: bytes | None = None


def reduction_for(header: Header, width_px: int, height_px: int) -> int:
    """How far `decode` may reduce: the largest of 1, 2, 4, 8 that leaves the upright photo at least this large.

    Only JPEG can be decoded to less than its size, and is the faster for it.
    """
    if header.format != "JPEG" or header.decoder is not Decoder.OPENCV:
        return 1
    return next(
        (
            factor
            for factor in (8, 4, 2)
            if -(-header.width_px // factor) >= width_px and -(-header.height_px // factor) >= height_px
        ),
        1,
    )


def decode(data: bytes, header: Header, field: str, reduction: int = 1) -> Photo:
    """Decodes an image file that `probe` has passed; of several frames the first.

    Args:
        data: the file.
        header: what `probe` said of it.
        field: what errors name.
        reduction: from `reduction_for`. The photo's sides are divided by it and rounded up.

    Raises:
        BadPhoto: the file is broken or truncated; names `field`.
    """
    try:
        bgr, alpha = _decode(data, header, reduction)
    except Exception as error:  # the decoders see hostile bytes: whatever they raise is the file's fault
        what = headers.broken(header.format)
        if header.doubt is not None:
            what = f"is a broken or truncated TIFF, or one {header.doubt}"
        raise BadPhoto(Violation(field, what)) from error
    if bgr.shape[:2] != (-(-header.height_px // reduction), -(-header.width_px // reduction)):
        raise BadPhoto(Violation(field, "has another size than its header says"))
    return Photo(bgr, alpha, header.profile)


def _decode(data: bytes, header: Header, reduction: int) -> tuple[Pixels, Pixels | None]:
    turn = header.orientation
    match header.decoder:
        case Decoder.OPENCV:
            try:
                bgr, alpha = _imdecode(data, _REDUCED[reduction]), None
                turn = 1 if header.format == "TIFF" else turn  # libtiff turns photos on its own account
            except (cv2.error, ValueError):
                if header.format not in _PILLOW_KNOWS_MORE or (header.format == "BMP" and len(data) > _MAX_SLOW_BYTES):
                    raise
                bgr, alpha = _decode_with_pillow(data, header)
        case Decoder.OPENCV_BGRA:
            bgr, alpha = _split(_imdecode(data, cv2.IMREAD_UNCHANGED))
        case Decoder.OPENCV_FLOAT:
            bgr, alpha, turn = _decode_floats(data), None, 1
        case Decoder.OPENCV_KEYED:
            bgr, alpha = _decode_keyed(data, header.key or ())
        case Decoder.PILLOW:
            bgr, alpha = _decode_with_pillow(data, header)
    return orientation.upright(bgr, turn), None if alpha is None else orientation.upright(alpha, turn)


def _imdecode(data: bytes, mode: int) -> NDArray[Any]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise ValueError("OpenCV can't decode it")
    return decoded


def _split(bgra: NDArray[Any]) -> tuple[Pixels, Pixels | None]:
    if bgra.ndim != 3 or bgra.shape[2] != 4 or bgra.dtype != np.uint8:
        raise ValueError("isn't what its header says")
    return cv2.cvtColor(bgra, cv2.COLOR_BGRA2BGR), _unless_opaque(cv2.extractChannel(bgra, 3))


def _unless_opaque(alpha: Pixels) -> Pixels | None:
    return None if alpha.min() == 255 else alpha


def _decode_keyed(data: bytes, key: tuple[int, ...]) -> tuple[Pixels, Pixels]:
    deep = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    clear = cv2.inRange(deep, key[::-1], key[::-1])
    bgr = np.empty(deep.shape, np.uint8)
    np.right_shift(deep, 8, out=bgr, casting="unsafe")
    return bgr, cv2.bitwise_not(clear, dst=clear)


def _decode_floats(data: bytes) -> Pixels:
    samples = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if samples.shape[2:] != (3,) or samples.dtype != np.float32:
        raise ValueError("isn't what its header says")
    white, bgr = _white(samples[::4, ::4]), np.empty(samples.shape, np.uint8)
    for row, levels in zip(samples, bgr, strict=True):
        levels[:] = _levels(row, white)
    return bgr


def _white(some: Floats) -> int:
    """Returns which number is white in floating point, judged by some of the samples.

    By custom that is 1; some programs write 0 to 255. Samples whose mean is over 1 are taken for the latter.
    """
    return 255 if np.nan_to_num(some, nan=0, posinf=0, neginf=0).mean() > 1 else 1


def _levels(samples: Floats, white: int) -> Pixels:
    levels: Floats = np.rint(np.nan_to_num(samples).clip(0, white) * (255 / white))
    return levels.astype(np.uint8)


def _decode_with_pillow(data: bytes, header: Header) -> tuple[Pixels, Pixels | None]:
    width, height = header.stored_size
    with Image.open(io.BytesIO(data), formats=FORMATS) as file:
        image = _load(file, header)
        to_eight_bits = _to_eight_bits(image, header.stored_size)
        bgr = np.empty((height, width, 3), np.uint8)
        alpha = np.empty((height, width), np.uint8) if image.has_transparency_data else None
        transform = None if header.left_profile is None else colors.into_srgb(*header.left_profile)
        mode = "RGB" if header.left_profile is None else header.left_profile[1]
        rows = max(1, _PIXELS_AT_ONCE // width)
        for top in range(0, height, rows):
            band = to_eight_bits(image.crop((0, top, width, min(top + rows, height))))
            if alpha is not None:
                alpha[top : top + rows] = np.asarray(band.convert("RGBA").getchannel("A"))
            rgb = band.convert(mode) if transform is None else transform.apply(band.convert(mode))
            bgr[top : top + rows] = cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR)
    return bgr, None if alpha is None else _unless_opaque(alpha)


def _load(file: Image.Image, header: Header) -> Image.Image:
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        file.getexif().pop(orientation.TAG, None)  # or else Pillow turns this format, and no other, itself
        if tiff.is_misread(file.tag_v2):
            raise ValueError("Pillow gets its pixels wrong")
    try:
        file.load()
    except OSError:
        if header.format != "GIF" or header.pixels > 1:
            raise
        return Image.new("L", (1, 1))  # a GIF of one pixel may hold no data for it; browsers show it all the same
    return file


def _to_eight_bits(image: Image.Image, size: tuple[int, int]) -> Callable[[Image.Image], Image.Image]:
    """Returns what scales parts of an image in one of Pillow's deep modes to 8 bits; Pillow would cap numbers at 255.

    Args:
        image: the loaded file, in any mode.
        size: width and height in pixels as they are stored; Pillow swaps those of some TIFF files.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return lambda part: part
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else tiff.Tags()
    shift = tiff.first(tags, tiff.BITS, 16) - 8
    inverts = tiff.first(tags, tiff.PHOTOMETRIC, 1) == 0
    some = image.crop((0, 0, *size)).resize((64, 64), Image.Resampling.NEAREST) if image.mode == "F" else None
    white = 1 if some is None else _white(np.asarray(some))

    def scale(part: Image.Image) -> Image.Image:
        samples = np.asarray(part)
        if part.mode == "F":
            levels = _levels(samples, white)
        else:
            numbers = samples.view(np.uint32) if part.mode == "I" else samples  # `_load` refuses those with a sign
            levels = (numbers >> shift).astype(np.uint8)
        return Image.fromarray(cv2.bitwise_not(levels) if inverts else levels)

    return scale


_RAW_TO_BGR = {
    PixelFormat.RGB8: cv2.COLOR_RGB2BGR,
    PixelFormat.RGBA8: cv2.COLOR_RGBA2BGR,
    PixelFormat.BGRA8: cv2.COLOR_BGRA2BGR,
    PixelFormat.GRAY8: cv2.COLOR_GRAY2BGR,
}


def from_raw(raw: RawPhoto) -> Photo:
    """Bare pixels, whose length is checked already, as a photo."""
    shape = (raw.height_px, raw.width_px, raw.pixel_format.channels)
    pixels = np.frombuffer(raw.data, np.uint8).reshape(shape)
    conversion = _RAW_TO_BGR.get(raw.pixel_format)
    bgr = pixels.copy() if conversion is None else cv2.cvtColor(pixels, conversion)
    return Photo(bgr, np.ascontiguousarray(pixels[..., 3]) if shape[2] == 4 else None)


def encode(pixels: Pixels, image_format: ImageFormat, quality: int, profile: bytes | None = None) -> bytes:
    """Pixels to an image file.

    Args:
        pixels: uint8 (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA with straight alpha.
        image_format: JPEG takes no BGRA, WEBP no side over 16383 px (the caller sees to both).
        quality: 1 to 100, for JPEG and WEBP.
        profile: the RGB ICC profile that says what colours mean. Grey pixels and RAW go without.

    Returns:
        The file; for RAW the bare pixels as grey, RGB or RGBA.
    """
    profile = None if pixels.ndim == 2 else profile
    match image_format:
        case ImageFormat.RAW:
            return _to_rgb(pixels).tobytes()
        case ImageFormat.PNG:
            return png.encode(pixels, profile)
        case ImageFormat.JPEG:
            file = _imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            return file if profile is None else colors.embed_in_jpeg(file, profile)
        case ImageFormat.WEBP:
            return _imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality], profile)


def _imencode(suffix: str, pixels: Pixels, parameters: list[int], profile: bytes | None = None) -> bytes:
    kinds, metadata = ([], []) if profile is None else ([cv2.IMAGE_METADATA_ICCP], [np.frombuffer(profile, np.uint8)])
    done, file = cv2.imencodeWithMetadata(suffix, pixels, kinds, metadata, parameters)
    if not done:
        raise RuntimeError(f"OpenCV can't encode {suffix} {pixels.shape}")
    return file.tobytes()


def _to_rgb(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        return pixels
    conversion = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(pixels, conversion)
