"""What an image file says of itself, read by Pillow before anything is decoded, and held against the limits."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

from PIL import Image, TiffImagePlugin

from mattebox_server.errors import BadPhoto, PhotoTooLarge, Violation
from mattebox_server.imaging import colors, orientation

# Every format that both libraries read. A closed list: Pillow's other plugins (EPS, PSD, ICNS …) are attack surface.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PNG_DEPTH_AT = 24  # the byte of the header that says how many bits a channel has
_MAX_PNG_CHUNKS = 100_000  # 32 MiB in the usual 8 KiB pieces are 4096
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257

# Pillow's modes as the colour models that profiles know; others (1 bit, floats) have no use for one.
_PROFILE_MODES = {
    **dict.fromkeys(("RGB", "RGBA", "RGBX", "P", "PA", "YCbCr"), "RGB"),
    **dict.fromkeys(("L", "LA", "I;16", "I;16L", "I;16B"), "L"),
    "CMYK": "CMYK",
    "LAB": "LAB",
}


@dataclass(frozen=True)
class Limits:
    """What one image may cost: bytes of its file, and width x height."""

    max_bytes: int
    max_pixels: int


class Decoder(Enum):
    """Who makes pixels of a file: OpenCV to BGR, to BGRA or to 16 bits with a transparent colour, or Pillow."""

    OPENCV = auto()
    OPENCV_BGRA = auto()
    OPENCV_KEYED = auto()
    PILLOW = auto()


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Args:
        format: one of `FORMATS`.
        width_px: of the upright photo.
        height_px: likewise.
        decoder: who is to decode it.
        orientation: how its pixels are stored, 1 to 8 as in EXIF.
        profile: the RGB ICC profile that the decoded photo will have; None is sRGB.
        left_profile: an ICC profile that the decoder leads to sRGB instead, and the mode of its pixels for Pillow.
        key: the transparent colour, grey or RGB of 16 bits, for `OPENCV_KEYED`.
    """

    format: str
    width_px: int
    height_px: int
    decoder: Decoder
    orientation: int = 1
    profile: bytes | None = None
    left_profile: tuple[bytes, str] | None = None
    key: tuple[int, ...] | None = None

    @property
    def pixels(self) -> int:
        """Width x height."""
        return self.width_px * self.height_px

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height in pixels as they stand in the file."""
        size = self.width_px, self.height_px
        return (size[1], size[0]) if orientation.swaps_sides(self.orientation) else size


def probe(data: bytes, limits: Limits, field: str) -> Header:
    """Reads an image file's header and holds it against the limits. Decodes nothing.

    A colour profile that is broken, over 4 MiB or not of the pixels' own colour model is passed over: the pixels are
    then taken for sRGB. (Pillow itself refuses a PNG whose profile is over 1 MiB.)

    Raises:
        BadPhoto: empty, or not an image of a known format.
        PhotoTooLarge: over a limit. Both name `field`.
    """
    if not data:
        raise BadPhoto(Violation(field, "is empty"))
    check_bytes(len(data), limits, field)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width_px, height_px = _stored_size(image)
            check_pixels(width_px, height_px, limits, field)
            return _read(image, data)
    except PhotoTooLarge:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(field, f"its header claims far more than {limits.max_pixels} pixels, the limit") from error
    except Exception as error:  # a hostile header can make any parser fail in any way
        raise BadPhoto(Violation(field, f"is not an image, of {', '.join(FORMATS)}, with a sound header")) from error


def check_bytes(size: int, limits: Limits, field: str) -> None:
    """Raises PhotoTooLarge, naming `field`, if so many bytes are over the limit."""
    if size > limits.max_bytes:
        raise _too_large(field, f"{size} bytes, the limit is {limits.max_bytes}")


def check_pixels(width_px: int, height_px: int, limits: Limits, field: str) -> None:
    """Raises PhotoTooLarge, naming `field`, if width x height is over the limit."""
    if width_px * height_px > limits.max_pixels:
        raise _too_large(field, f"{width_px}x{height_px} pixels, the limit is {limits.max_pixels} in all")


def _too_large(field: str, what: str) -> PhotoTooLarge:
    return PhotoTooLarge(Violation(field, what))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and length of each chunk's content, to the last.

    Raises:
        ValueError: a chunk claims to be longer than the file, or there are absurdly many.
    """
    position = len(PNG_SIGNATURE)
    for _ in range(_MAX_PNG_CHUNKS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if position + length + 12 > len(data):
            raise ValueError("a chunk is longer than the file")
        yield kind, position + 8, length
        if kind == b"IEND":
            return
        position += length + 12
    raise ValueError("too many chunks")


def _read(image: Image.Image, data: bytes) -> Header:
    kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG that others follow
    turn = _orientation(image, data)
    width_px, height_px = _stored_size(image)
    if orientation.swaps_sides(turn):
        width_px, height_px = height_px, width_px
    key = _deep_key(image, data)
    kept, left = _profiles(image)
    if key is not None:
        return Header(kind, width_px, height_px, Decoder.OPENCV_KEYED, turn, kept, None, key)
    decoder = Decoder.PILLOW if left is not None else _decoder(image)
    return Header(kind, width_px, height_px, decoder, turn, kept, left)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow swaps the sides of some that lie on theirs
        return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    return image.size


def _orientation(image: Image.Image, data: bytes) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # The file's own directory has the form of EXIF, but for the 64 bit variant.
        found = orientation.from_exif(data)
        return orientation.sane(image.tag_v2.get(orientation.TAG)) if found is None else found
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    if exif is None and image.format == "PNG":
        exif = _late_exif(data)
    found = orientation.from_exif(exif) if isinstance(exif, bytes) else None
    if found is None and isinstance(xmp, bytes) and image.format != "AVIF":  # AVIF has its own property for it
        found = orientation.from_xmp(xmp)
    return found or 1


def _late_exif(data: bytes) -> bytes | None:
    """EXIF that stands behind a PNG's pixels, where Pillow finds it only after it has decoded them."""
    try:
        for kind, start, length in png_chunks(data):
            if kind == b"eXIf":
                return data[start : start + length]
    except ValueError:  # the decoder will refuse it
        pass
    return None


def _profiles(image: Image.Image) -> tuple[bytes | None, tuple[bytes, str] | None]:
    """The profile that stays with the photo, or the one that its pixels have to be led out of."""
    profile: object = image.info.get("icc_profile")
    mode = _PROFILE_MODES.get(image.mode)
    if not isinstance(profile, bytes) or mode is None or not colors.is_sound(profile, mode):
        return None, None
    return (profile, None) if mode == "RGB" and colors.is_keepable(profile) else (None, (profile, mode))


def _deep_key(image: Image.Image, data: bytes) -> tuple[int, ...] | None:
    """The transparent colour, grey or RGB, of a PNG with 16 bits a channel; Pillow loses it on the way to 8 bits."""
    key: object = image.info.get("transparency")
    if image.format != "PNG" or data[_PNG_DEPTH_AT] != 16 or key is None:
        return None
    return (key,) * 3 if isinstance(key, int) else cast("tuple[int, ...]", key)


def _decoder(image: Image.Image) -> Decoder:
    if image.format == "AVIF" or (image.has_transparency_data and image.format != "WEBP"):
        return Decoder.PILLOW
    # For WebP Pillow takes five times the memory of the pixels.
    return Decoder.OPENCV_BGRA if image.has_transparency_data else Decoder.OPENCV
