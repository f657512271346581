"""Makes EXIF blocks by hand, so that they can be wrong, and turns images as orientations say."""

import struct

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 0x0112
BYTE, ASCII, SHORT, LONG, RATIONAL, FLOAT = 1, 2, 3, 4, 5, 11


Entry = tuple[int, int, int, bytes]


def block(*entries: Entry, order: str = "<", following: int = 0, claimed: int | None = None) -> bytes:
    """Makes a TIFF header and one directory.

    Args:
        entries: the tag, the type, the count and the bytes of each value. Values of more than 4 bytes stand behind the
            directory.
        order: the byte order, as `struct` writes it.
        following: the claimed position of the next directory.
        claimed: the claimed number of entries; None for the real one.
    """
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    body, tail = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        stored = value
        if len(value) > 4:
            stored = struct.pack(order + "I", start + len(tail))
            tail += value + bytes(len(value) % 2)
        body += struct.pack(order + "HHI", tag, kind, count) + stored.ljust(4, b"\0")
    count_bytes = struct.pack(order + "H", len(entries) if claimed is None else claimed)
    return head + count_bytes + body + struct.pack(order + "I", following) + tail


def orientation(value: int, order: str = "<") -> bytes:
    """Makes a correct block that holds only the orientation."""
    return block((ORIENTATION, SHORT, 1, struct.pack(order + "H", value)), order=order)


def turned(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns a stored image upright."""
    transposed = np.swapaxes(stored, 0, 1)
    views = {
        1: stored,
        2: np.fliplr(stored),
        3: np.rot90(stored, 2),
        4: np.flipud(stored),
        5: transposed,
        6: np.rot90(stored, -1),
        7: np.rot90(transposed, 2),
        8: np.rot90(stored, 1),
    }
    return np.ascontiguousarray(views[orientation])
