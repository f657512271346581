"""Decodes image files to pixels, and encodes pixels to image files.

OpenCV decodes most files, and Pillow the others: docs/decisions/005-two-decoders.md gives the reasons. An answer
carries the colour profile of the photo, and no other metadata.
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
from mattebox_server.imaging import colors, headers, heif, orientation, png, tiff
from mattebox_server.imaging.headers import Decoder, Header
from mattebox_server.imaging.pixels import Floats, Pixels
from mattebox_server.request import ImageFormat, PixelFormat, RawPhoto

_PIXELS_AT_ONCE = 262_144  # bounds the copies that are made of Pillow's pixels
_PILLOW_KNOWS_MORE = ("PNG", "TIFF", "BMP", "GIF")  # both decode JPEG and WebP with the same library
_MAX_SLOW_BYTES = 4 * 2**20  # Pillow unpacks the run lengths of a BMP in Python; so many bytes take a second at most
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


@dataclass(frozen=True)
class Photo:
    """An upright photo."""

    bgr: Pixels  # uint8 (H, W, 3)
    alpha: Pixels | None = None  # its own transparency, uint8 (H, W), 255 opaque
    profile: bytes | None = None  # the RGB ICC profile of the colours; None for sRGB, or if the space isn't known


def reduction_for(header: Header, width_px: int, height_px: int) -> int:
    """Returns the factor (1, 2, 4 or 8) by which `decode` may reduce a photo, so that it keeps at least the given size.

    Only JPEG can be decoded at a reduced size, which is faster.
    """
    if header.format == "JPEG" and header.decoder is Decoder.OPENCV:
        for factor in _REDUCED:
            if -(-header.width_px // factor) >= width_px and -(-header.height_px // factor) >= height_px:
                return factor
    return 1


def decode(data: bytes, header: Header, field: str, reduction: int = 1) -> Photo:
    """Decodes an image file, whose header `headers.probe` has read, to an upright photo: the first of several frames.

    The sides are divided by the factor from `reduction_for`, and rounded up. Raises BadPhoto, which names `field`, if
    the file is broken or truncated, or of a kind that neither library can decode.
    """
    try:
        bgr, alpha = _decode(data, header, reduction)
    except Exception as error:  # whatever the decoders raise is the fault of the file, which can be hostile
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
                bgr, alpha = _imdecode(data, _REDUCED.get(reduction, cv2.IMREAD_COLOR)), None
                turn = 1 if header.format == "TIFF" else turn  # libtiff has turned the photo already
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
    """Returns the number that stands for white in floating point: 1 by custom, but some programs write 0 to 255."""
    return 255 if np.nan_to_num(some, nan=0, posinf=0, neginf=0).mean() > 1 else 1


def _levels(samples: Floats, white: int) -> Pixels:
    levels: Floats = np.rint(np.nan_to_num(samples).clip(0, white) * (255 / white))
    return levels.astype(np.uint8)


def _decode_with_pillow(data: bytes, header: Header) -> tuple[Pixels, Pixels | None]:
    width, height = header.stored_size
    with Image.open(io.BytesIO(data), formats=headers.formats()) as file:
        image = _load(file, header)
        to_eight_bits = _to_eight_bits(image, header.stored_size)
        bgr = np.empty((height, width, 3), np.uint8)
        alpha = np.empty((height, width), np.uint8) if image.has_transparency_data else None
        transform = None if header.source_profile is None else colors.into_srgb(*header.source_profile)
        mode = "RGB" if header.source_profile is None else header.source_profile[1]
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
        file.getexif().pop(orientation.TAG, None)  # otherwise Pillow turns TIFF images, and images of no other format
        if tiff.is_misread(file.tag_v2):
            raise ValueError("Pillow gets its pixels wrong")
    try:
        file.load()
    except OSError:
        if header.format != "GIF" or header.pixels > 1:
            raise
        return Image.new("L", (1, 1))  # browsers also show a GIF of one pixel that has no data
    if header.format == heif.FORMAT and file.size != header.stored_size:
        raise ValueError("has another size than its header says")
    return file


def _to_eight_bits(image: Image.Image, size: tuple[int, int]) -> Callable[[Image.Image], Image.Image]:
    """Returns a function that converts parts of an image to 8 bits a channel, if the image has more.

    Pillow's own conversion doesn't scale the numbers, and cuts them off at 255. `size` is that of the stored image,
    because Pillow swaps width and height for some TIFF files.
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
            numbers = samples.view(np.uint32) if part.mode == "I" else samples  # `_load` refuses signed samples
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
    """Converts bare pixels to a photo. The caller has checked that the data has the right length."""
    shape = (raw.height_px, raw.width_px, raw.pixel_format.channels)
    pixels = np.frombuffer(raw.data, np.uint8).reshape(shape)
    conversion = _RAW_TO_BGR.get(raw.pixel_format)
    bgr = pixels.copy() if conversion is None else cv2.cvtColor(pixels, conversion)
    return Photo(bgr, np.ascontiguousarray(pixels[..., 3]) if shape[2] == 4 else None)


def encode(pixels: Pixels, image_format: ImageFormat, quality: int, profile: bytes | None = None) -> bytes:
    """Encodes pixels uint8 (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA with straight alpha to an image file.

    The caller sees to it that JPEG gets no BGRA, and WEBP no side over 16383 px. RAW gives the bare pixels as grey, RGB
    or RGBA. `quality`, 1 to 100, counts for JPEG and WEBP. The file holds the RGB ICC profile unless it is grey or RAW.
    """
    profile = None if pixels.ndim == 2 else profile
    match image_format:
        case ImageFormat.RAW:
            return (pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, png.TO_RGB[pixels.shape[2:]])).tobytes()
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
