"""Reads the headers of image files with Pillow, and compares them with the limits before anything is decoded."""

import io
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

from PIL import Image, TiffImagePlugin

from mattebox_server.errors import BadPhoto, PhotoTooLarge, Violation
from mattebox_server.imaging import colors, heif, orientation, tiff

# The formats that are always read. The list is closed, because Pillow's other plugins (EPS, PSD, ICNS …) are open to
# attacks.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
_NO_HEIF = "is a HEIC file, which this server doesn't read: it has no pi-heif, which is in the extra heif"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PNG_DEPTH_AT = 24  # the offset of the byte that holds the number of bits of a channel
_USUAL_TILE_PIXELS = 2**20  # the usual tiles have 2**16 to 2**18
_FLOAT_COST = 2  # measured: decoding takes up to 37 bytes a pixel, photo included, of which one pixel pays 20
_MAX_PNG_CHUNKS = 100_000  # a file of 32 MiB in the usual pieces of 8 KiB has 4096

# Pillow's modes, and the colour models of the profiles that fit them. Other modes (1 bit, floating point) have none.
_PROFILE_MODES = {
    **dict.fromkeys(("RGB", "RGBA", "RGBX", "P", "PA", "YCbCr"), "RGB"),
    **dict.fromkeys(("L", "LA", "I;16", "I;16L", "I;16B"), "L"),
    "CMYK": "CMYK",
    "LAB": "LAB",
}


@dataclass(frozen=True)
class PhotoLimits:
    """The largest size of one image file in bytes, and the largest width x height in pixels."""

    max_bytes: int
    max_pixels: int


class Decoder(Enum):
    """The library that decodes a file, and the form of the pixels."""

    OPENCV = auto()  # BGR
    OPENCV_BGRA = auto()
    OPENCV_FLOAT = auto()  # BGR in floating point
    OPENCV_KEYED = auto()  # BGR of 16 bits, in which one colour stands for transparency
    PILLOW = auto()  # RGB or RGBA


@dataclass(frozen=True)
class Header:
    """The facts about an image file that are known before it is decoded."""

    format: str  # one of `formats()`
    width_px: int  # of the upright photo
    height_px: int
    decoder: Decoder
    orientation: int = 1  # the way in which the pixels are stored, 1 to 8 as in EXIF
    profile: bytes | None = None  # the RGB ICC profile that the decoded photo will have; None is sRGB
    source_profile: tuple[bytes, str] | None = None  # the profile that the decoder converts to sRGB, and its mode
    key: tuple[int, ...] | None = None  # the transparent colour for `OPENCV_KEYED`: red, green and blue of 16 bits
    doubt: str | None = None  # why it may be unreadable, in words that follow "is a TIFF"; None for usual files

    @property
    def pixels(self) -> int:
        """Returns width x height; twice that in floating point, whose decoding takes twice the memory."""
        return self.width_px * self.height_px * (_FLOAT_COST if self.decoder is Decoder.OPENCV_FLOAT else 1)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Returns the width and height in pixels of the image as it is stored, before it is turned upright."""
        return orientation.turned_size((self.width_px, self.height_px), self.orientation)


def probe(data: bytes, limits: PhotoLimits, field: str) -> Header:
    """Reads the header of an image file, and compares it with the limits. Nothing is decoded.

    A colour profile is ignored, and the pixels count as sRGB, if the profile is broken, is larger than 4 MiB, or has
    another colour model than the pixels. (Pillow refuses a PNG file whose profile is larger than 1 MiB.)

    Raises BadPhoto, which names `field`, if the file is empty, is no image of a known format, or is of a kind that
    neither library can decode; PhotoTooLarge if it has more bytes or pixels than the limits allow.
    """
    if not data:
        raise BadPhoto(Violation(field, "is empty"))
    check_bytes(len(data), limits, field)
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            width_px, height_px = _stored_size(image)
            check_pixels(width_px, height_px, limits, field)
            return _read(image, data, field)
    except (BadPhoto, PhotoTooLarge):
        raise
    except Image.DecompressionBombError as error:
        what = f"its header claims far more than the limit of {limits.max_pixels} pixels"
        raise PhotoTooLarge(Violation(field, what)) from error
    except Exception as error:  # a hostile header can make Pillow fail in any way
        if data[:4] not in tiff.SIGNATURES:
            raise BadPhoto(Violation(field, _unknown(data))) from error
    return _read_unnamed_tiff(data, limits, field)


def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are read."""
    return (*FORMATS, heif.FORMAT) if heif.is_enabled() else FORMATS


def _unknown(data: bytes) -> str:
    if heif.is_heif(data) and not heif.is_enabled():
        return _NO_HEIF
    return f"is not an image, of {', '.join(formats())}, with a sound header"


def broken(image_format: str) -> str:
    """Returns the text of the error about a file that can't be decoded."""
    return f"is a broken, truncated or unsupported {image_format} file"


def check_bytes(size: int, limits: PhotoLimits, field: str) -> None:
    """Raises PhotoTooLarge, which names `field`, if a file of `size` bytes is larger than the limit."""
    if size > limits.max_bytes:
        raise PhotoTooLarge(Violation(field, f"{size} bytes, the limit is {limits.max_bytes}"))


def check_pixels(width_px: int, height_px: int, limits: PhotoLimits, field: str) -> None:
    """Raises PhotoTooLarge, which names `field`, if width x height is larger than the limit."""
    if width_px * height_px > limits.max_pixels:
        what = f"{width_px}x{height_px} pixels, the limit is {limits.max_pixels} in all"
        raise PhotoTooLarge(Violation(field, what))


def _scan_png(data: bytes) -> tuple[bytes | None, bool]:
    """Returns the first EXIF block of a PNG file, and whether every chunk is as long as it claims.

    Pillow finds an EXIF block behind the pixels only after it has decoded them.
    """
    position, exif = len(PNG_SIGNATURE), None
    for _ in range(_MAX_PNG_CHUNKS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if position + length + 12 > len(data):
            break
        if kind == b"eXIf" and exif is None:
            exif = data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            return exif, True
        position += length + 12
    return exif, False


def _read(image: Image.Image, data: bytes, field: str) -> Header:
    kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO is a JPEG file that is followed by others
    exif, sound = _scan_png(data) if kind == "PNG" else (None, True)
    turn = _orientation(image, data, exif)
    key = _deep_key(image, data)
    kept, source = _profiles(image.info.get("icc_profile"), image.mode)
    decoder = Decoder.PILLOW if source is not None else _decoder(image)
    if key is not None:
        decoder, source = Decoder.OPENCV_KEYED, None
    if not sound and decoder is not Decoder.PILLOW:
        # OpenCV allocates, and zeroes, what a chunk claims before it reads it: 2.5 kB can make it take 4 GiB.
        raise BadPhoto(Violation(field, broken(kind)))
    doubt = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image.tag_v2, field)
        doubt = tiff.doubt(image.tag_v2)
    return Header(kind, *orientation.turned_size(_stored_size(image), turn), decoder, turn, kept, source, key, doubt)


def _read_unnamed_tiff(data: bytes, limits: PhotoLimits, field: str) -> Header:
    """Reads the header of a TIFF file of a kind that Pillow can't open."""
    try:
        tags = tiff.read_tags(data)
    except ValueError as error:
        raise BadPhoto(Violation(field, _unknown(data))) from error
    width_px, height_px = tiff.first(tags, tiff.WIDTH, 0), tiff.first(tags, tiff.HEIGHT, 0)
    check_pixels(width_px, height_px, limits, field)
    if not tiff.is_float_rgb(tags):
        raise BadPhoto(Violation(field, f"is a TIFF {tiff.why_unreadable(tags)}"))
    _check_tiles(tags, field)
    if width_px * height_px * _FLOAT_COST > limits.max_pixels:
        limit = limits.max_pixels // _FLOAT_COST
        what = f"{width_px}x{height_px} pixels in floating point, the limit is {limit} in all"
        raise PhotoTooLarge(Violation(field, what))
    turn = orientation.sane(tags.get(orientation.TAG))
    kept, _ = _profiles(tags.get(tiff.PROFILE), "RGB")
    return Header("TIFF", *orientation.turned_size((width_px, height_px), turn), Decoder.OPENCV_FLOAT, turn, kept)


def _check_tiles(tags: tiff.Tags, field: str) -> None:
    """Refuses tiles that are far larger than the image: a decoder holds a whole tile, so that 400 kB can take 1 GB."""
    if tiff.tile_pixels(tags) > max(_USUAL_TILE_PIXELS, tags[tiff.WIDTH] * tags[tiff.HEIGHT]):
        raise BadPhoto(Violation(field, "is a TIFF whose tiles are larger than the image"))


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow swaps the sides of images that lie on their side
        return image.tag_v2[tiff.WIDTH], image.tag_v2[tiff.HEIGHT]
    return image.size


def _orientation(image: Image.Image, data: bytes, late_exif: bytes | None) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # The directory of a TIFF file has the form of EXIF, except in the variant with 64-bit offsets.
        found = orientation.from_exif(data)
        return orientation.sane(image.tag_v2.get(orientation.TAG)) if found is None else found
    if image.format == heif.FORMAT:
        return 1  # its decoder turns the photo by a property of the format, which overrules EXIF
    exif, xmp = image.info.get("exif", late_exif), image.info.get("xmp")
    found = orientation.from_exif(exif) if isinstance(exif, bytes) else None
    if found is None and isinstance(xmp, bytes) and image.format != "AVIF":  # AVIF has a property of its own for it
        found = orientation.from_xmp(xmp)
    return found or 1


def _profiles(profile: object, pixel_mode: str) -> tuple[bytes | None, tuple[bytes, str] | None]:
    """Returns `Header.profile` and `Header.source_profile` for pixels in one of Pillow's modes. One at most is set."""
    mode = _PROFILE_MODES.get(pixel_mode)
    if not isinstance(profile, bytes) or mode is None or not colors.is_sound(profile, mode):
        return None, None
    return (profile, None) if mode == "RGB" and colors.is_keepable(profile) else (None, (profile, mode))


def _deep_key(image: Image.Image, data: bytes) -> tuple[int, ...] | None:
    """Returns the transparent colour of a PNG file of 16 bits a channel; Pillow loses it when it converts to 8 bits."""
    key: object = image.info.get("transparency")
    if image.format != "PNG" or data[_PNG_DEPTH_AT] != 16 or key is None:
        return None
    return (key,) * 3 if isinstance(key, int) else cast("tuple[int, ...]", key)


def _decoder(image: Image.Image) -> Decoder:
    if image.format in ("AVIF", heif.FORMAT) or (image.has_transparency_data and image.format != "WEBP"):
        return Decoder.PILLOW
    # Pillow would take five times the memory of the pixels for WebP.
    return Decoder.OPENCV_BGRA if image.has_transparency_data else Decoder.OPENCV
