"""Checks ICC colour profiles, converts pixels from one profile to another, and embeds profiles in files."""

import io
import struct

import cv2
import numpy as np
from PIL import Image, ImageCms
from PIL.ImageCms import ImageCmsTransform

from mattebox_server.imaging.pixels import Pixels

MAX_PROFILE_BYTES = 4 * 2**20  # the largest profiles of printers have 2 to 3 MB
_MAX_KEPT_BYTES = 2**20  # Pillow refuses PNG files with larger profiles, so that no answer may hold one

# The names of the colour models: Pillow's, and those in the header of a profile.
_SPACES = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK", "LAB": b"Lab "}
# Device links and tables of named colours don't describe pixels. Abstract profiles describe those in Lab.
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac", b"abst")

# With this intent white, black and all colours that both spaces contain stay the same.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_AS_IT_IS = _FLAGS | ImageCms.Flags.NOOPTIMIZE
_FEW_PIXELS = 4096  # for fewer, the table that speeds up the conversion of many takes longer than the pixels
_PIXELS_AT_ONCE = 65536  # bounds Pillow's copies, each of which takes 4 bytes a pixel

_JPEG_SEGMENT_BYTES = 65519  # a segment of 64 KiB less the length, the name and the numbering


def is_sound(profile: bytes, mode: str) -> bool:
    """Whether a profile is complete, describes pixels of `mode` (RGB, L, CMYK or LAB), and can be converted to sRGB."""
    if not 132 <= len(profile) <= MAX_PROFILE_BYTES or int.from_bytes(profile[:4], "big") != len(profile):
        return False
    if profile[36:40] != b"acsp" or profile[12:16] not in _CLASSES or profile[16:20] != _SPACES[mode]:
        return False
    return _builds(profile, None, mode)


def is_keepable(profile: bytes) -> bool:
    """Whether answers can be in the space of a sound RGB profile. A scanner's may lack the conversion from sRGB."""
    return len(profile) <= _MAX_KEPT_BYTES and _builds(None, profile, "RGB")


def _builds(source: bytes | None, target: bytes | None, mode: str) -> bool:
    try:
        _transform(source, target, mode, _AS_IT_IS)
    except (OSError, TypeError, ValueError):  # Pillow raises these where the colour library refuses a profile
        return False
    return True


def into_srgb(profile: bytes, mode: str) -> ImageCmsTransform:
    """Returns the conversion from pixels of `mode` in the space of a sound profile to RGB pixels in sRGB."""
    return _transform(profile, None, mode, _FLAGS)


def _transform(source: bytes | None, target: bytes | None, mode: str, flags: ImageCms.Flags) -> ImageCmsTransform:
    return ImageCmsTransform(_open(source), _open(target), mode, "RGB", _INTENT, flags=flags)


def _open(profile: bytes | None) -> ImageCms.ImageCmsProfile:
    if profile is None:
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))  # pyright: ignore - Pillow has no types for it
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def convert(pixels: Pixels, from_profile: bytes | None, to_profile: bytes | None) -> Pixels:
    """Converts pixels uint8 (H, W, 3) BGR from the space of one sound RGB profile into that of another; None is sRGB.

    Colours outside of the target's space become the nearest colours at its border. Beside the result this takes at most
    3 bytes a pixel. If both profiles are the same, `pixels` itself is returned.
    """
    if from_profile == to_profile:
        return pixels
    line = pixels.reshape(1, -1, 3)
    transform = _transform(from_profile, to_profile, "RGB", _AS_IT_IS if line.shape[1] <= _FEW_PIXELS else _FLAGS)
    result = np.empty_like(line)
    for start in range(0, line.shape[1], _PIXELS_AT_ONCE):
        block = slice(start, start + _PIXELS_AT_ONCE)
        rgb = Image.fromarray(cv2.cvtColor(line[:, block], cv2.COLOR_BGR2RGB))
        result[:, block] = cv2.cvtColor(np.asarray(transform.apply(rgb)), cv2.COLOR_RGB2BGR)
    return result.reshape(pixels.shape)


def embed_in_jpeg(file: bytes, profile: bytes) -> bytes:
    """Puts a profile into a JPEG file that has none. OpenCV 4.13 to 5.0 fails if it is longer than one segment."""
    parts = [profile[at : at + _JPEG_SEGMENT_BYTES] for at in range(0, len(profile), _JPEG_SEGMENT_BYTES)]
    segments = [
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes((number, len(parts))) + part
        for number, part in enumerate(parts, 1)
    ]
    start = 4 + int.from_bytes(file[4:6], "big") if file[2:4] == b"\xff\xe0" else 2  # JFIF's segment has to come first
    return b"".join((file[:start], *segments, file[start:]))
