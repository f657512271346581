"""Reads the tags of TIFF files, to decode kinds that Pillow can't open, and to name the reason if no library can."""

import io
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two have 64-bit offsets
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT, PROFILE = 322, 323, 339, 34675
_NUMBERS = (WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT)
FLOAT = 3  # a value of SAMPLE_FORMAT; 1 is unsigned, 2 is signed

_UNPACKED = (1, 5, 8, 32773, 32946)  # every build of both libraries reads these: none, LZW, deflate, PackBits
_COMMON = (*_UNPACKED, 2, 3, 4, 7, 32771)  # these are facsimile and JPEG
_RARE = {
    6: "old-style JPEG",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}

Tags = ImageFileDirectory_v2


def read_tags(data: bytes) -> Tags:
    """Reads the tags of a TIFF file's first image. Raises ValueError if the file is broken."""
    try:
        tags = Tags(data[: 16 if b"+" in data[:4] else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        sound = tags[WIDTH] > 0 < tags[HEIGHT] and all(first(tags, tag, 0) >= 0 for tag in _NUMBERS)
    except Exception as error:  # the file can be hostile, and Pillow's parser fails in many ways
        raise ValueError("it has no sound directory") from error
    if not sound:
        raise ValueError("it has no size")
    return tags


def first(tags: Tags, tag: int, default: int) -> int:
    """Returns the value of a tag, or the first of its values, as some tags have one for each sample of a pixel."""
    value: Any = tags.get(tag, default)
    return int(value if isinstance(value, int) else value[0])


def is_float_rgb(tags: Tags) -> bool:
    """Whether the pixels are RGB of 32-bit floating point in a form that OpenCV reads; Pillow has no mode for it."""
    form = {SAMPLE_FORMAT: FLOAT, BITS: 32, PHOTOMETRIC: 2, SAMPLES: 3, PLANAR: 1}
    return first(tags, COMPRESSION, 1) in _UNPACKED and all(first(tags, tag, 1) == form[tag] for tag in form)


def is_misread(tags: Tags) -> bool:
    """Whether Pillow opens the file and gets its pixels wrong.

    Pillow takes uncompressed planes of 16 bits for planes of 8 bits. Signed samples of 32 bits are refused because no
    rule says which number is black.
    """
    bits = first(tags, BITS, 1)
    in_planes = first(tags, PLANAR, 1) == 2 and first(tags, COMPRESSION, 1) == 1
    return (bits == 16 and in_planes) or (bits == 32 and first(tags, SAMPLE_FORMAT, 1) == 2)


def doubt(tags: Tags) -> str | None:
    """Returns `why_unreadable` for files that Pillow opens but may fail to decode; None for usual files."""
    special = is_misread(tags) or first(tags, COMPRESSION, 1) not in _COMMON
    return why_unreadable(tags) if special else None


def why_unreadable(tags: Tags) -> str:
    """Returns the reason why a file can't be decoded, in words that follow "is a TIFF"."""
    compression = first(tags, COMPRESSION, 1)
    if compression not in _COMMON:
        return f"whose compression ({_RARE.get(compression, f'number {compression}')}) can't be read here"
    kind = {2: ", signed", FLOAT: ", floating point"}.get(first(tags, SAMPLE_FORMAT, 1), "")
    planes = ", in planes" if first(tags, PLANAR, 1) == 2 else ""
    pixels = f"{first(tags, SAMPLES, 1)} x {first(tags, BITS, 1)} bits{kind}{planes}"
    return f"whose kind of pixels ({pixels}) can't be read here"


def tile_pixels(tags: Tags) -> int:
    """Returns width x height of a tile; 0 if the file has none."""
    return first(tags, TILE_WIDTH, 0) * first(tags, TILE_HEIGHT, 0)
