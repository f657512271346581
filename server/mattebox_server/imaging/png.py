"""Writes PNG files. OpenCV takes at least three times as long, because it compresses with zlib instead of ISA-L.

Rows are filtered and compressed in blocks, so that memory never holds a second picture.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from isal import isal_zlib

from mattebox_server.imaging.headers import PNG_SIGNATURE
from mattebox_server.imaging.pixels import Pixels

# The keys are what follows height and width in a shape: () for grey, (3,) for BGR, (4,) for BGRA.
_COLOR_TYPES = {(): 0, (3,): 2, (4,): 6}
TO_RGB = {(3,): cv2.COLOR_BGR2RGB, (4,): cv2.COLOR_BGRA2RGBA}

BLOCK_BYTES = 2**19  # blocks of 64 KiB take 10 to 30 % longer at 12 MP; blocks of 4 MiB take as long
_LEVEL = 1  # level 0 is hardly faster for 1.2 to 1.7 times the bytes; 2 is like 1; 3 takes up to 15 times as long

_AS_IT_IS, _UP, _AVERAGE = 0, 2, 3  # filters: the first byte of a row is the number of its filter


def encode(pixels: Pixels, profile: bytes | None = None) -> bytes:
    """Encodes pixels uint8 (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA with straight alpha, which may be a view.

    The caller sees to it that grey pixels have no RGB ICC profile. Memory holds the file twice for a moment, and 2 MiB
    beside it, or a few rows if they are longer. Raises ValueError if `pixels` is empty, or has another shape or type.
    """
    if pixels.size == 0 or pixels.dtype != np.uint8 or pixels.shape[2:] not in _COLOR_TYPES:
        raise ValueError(f"PNG can't hold {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[pixels.shape[2:]], 0, 0, 0)
    parts = [PNG_SIGNATURE, *_chunk(b"IHDR", header)]
    if profile is not None:
        parts += _chunk(b"iCCP", b"ICC\0\0" + zlib.compress(profile))
    for compressed in _compressed(pixels):
        if compressed:  # the compressor may hold back a block of zeros
            parts += _chunk(b"IDAT", compressed)
    parts += _chunk(b"IEND", b"")
    return b"".join(parts)  # a growing BytesIO takes as much memory, and 15 to 25 % longer for 20 MB


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, bytes, bytes]:
    checksum = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return struct.pack(">I4s", len(content), kind), content, struct.pack(">I", checksum)


def _compressed(pixels: Pixels) -> Iterator[bytes]:
    packer = isal_zlib.compressobj(_LEVEL)
    for rows in _filtered(pixels):
        yield packer.compress(rows.data)
    yield packer.flush()


def _filtered(pixels: Pixels) -> Iterator[Pixels]:
    """Yields blocks of filtered rows, uint8 (h, 1 + W * channels), as PNG compresses them.

    All blocks share the same memory. The filters treat each channel on its own, so that they can work on BGR before it
    is converted to RGB. The first row of the picture isn't filtered, because no row stands above it.
    """
    row_bytes = pixels[0].size
    most = max(1, min(BLOCK_BYTES // row_bytes, len(pixels)))
    rows = np.empty((most, 1 + row_bytes), np.uint8)
    rgb = rows[:, 1:].reshape(most, *pixels.shape[1:])  # a view
    residual = rgb if pixels.ndim == 2 else np.empty(rgb.shape, np.uint8)
    for top, bottom in itertools.pairwise([0, *range(1, len(pixels), most), len(pixels)]):
        count = bottom - top
        if top == 0:
            rows[0, 0], residual[0] = _AS_IT_IS, pixels[0]
        else:
            rows[:count, 0] = _filter(pixels[top:bottom], pixels[top - 1 : bottom - 1], residual[:count])
        if residual is not rgb:
            cv2.cvtColor(residual[:count], TO_RGB[pixels.shape[2:]], dst=rgb[:count])
        yield rows[:count]


def _filter(block: Pixels, above: Pixels, residual: Pixels) -> int:
    """Filters a block of rows: writes the differences to the pixels above and to the left into `residual`.

    Opaque photos get the filter AVERAGE, which takes 4 to 7 % fewer bytes than UP or SUB, for 10 % more time. Cutouts
    would gain 2 to 5 % for 10 to 25 % more time, and mattes at most 1 % for almost twice the time, so that both get UP,
    which takes 1 % fewer bytes than SUB in cutouts. This was measured on a grainy picture of 12 MP and on the nine
    photos of alphamatting.com. All arrays are uint8 (h, W, ...). Returns the number of the filter.
    """
    if block.shape[2:] != (3,):
        np.subtract(block, above, out=residual)
        return _UP
    np.subtract(block[:, 0], above[:, 0] >> 1, out=residual[:, 0])
    left, above, rest = block[:, :-1], above[:, 1:], residual[:, 1:]
    np.bitwise_xor(left, above, out=rest)
    rest >>= 1
    rest += left & above  # together half the sum of both; the sum itself would take a ninth bit
    np.subtract(block[:, 1:], rest, out=rest)
    return _AVERAGE
