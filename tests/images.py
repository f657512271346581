"""Makes photos for tests, and reads answers with Pillow."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]


def scene(width: int = 96, height: int = 64) -> Bytes:
    """Draws a red left third and a green square in the middle, on grey: uint8 (height, width, 3) RGB."""
    photo = np.full((height, width, 3), 128, np.uint8)
    photo[:, : width // 3] = (220, 20, 20)
    photo[height // 4 : height // 2, width // 2 : width // 2 + width // 4] = (20, 200, 20)
    return photo


def textured(width: int, height: int, seed: int = 0) -> Bytes:
    """Draws blobs of all colours with soft borders and grain: uint8 (height, width, 3) RGB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), np.uint8))
    photo = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), np.uint8)
    for y in range(
        height
    ):  # row by row: all at once takes five times as long for 12 megapixels, most of it for fresh memory
        photo[y] = np.clip(photo[y] + rng.normal(0, 6, (width, 3)), 0, 255)
    return photo


def encode(pixels: Bytes | Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """Encodes an image file with Pillow."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, image_format, **options)
    return file.getvalue()


def decode(file: bytes) -> Bytes:
    """Decodes an image file with Pillow, without a conversion: (h, w), (h, w, 3) RGB or (h, w, 4) RGBA."""
    return np.asarray(Image.open(io.BytesIO(file)))


def exif_orientation(orientation: int) -> Image.Exif:
    """Makes an EXIF block that holds only the orientation, 1 to 8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """Makes one chunk, which may claim another length than it has."""
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, idat_length: int | None = None) -> bytes:
    """Makes a PNG file without pixels whose header claims a size. The chunk for pixels may claim another length."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 64), idat_length)
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")
