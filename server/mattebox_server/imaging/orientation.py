"""Reads from EXIF and XMP how the camera was held, and turns photos upright.

The same code reads all formats, so that the result doesn't depend on the decoder. Pillow's reader copies all data that
the entries of a directory point to, and accepts 6.0, or the first of two numbers, as an orientation.
"""

import re
import struct

import cv2

from mattebox_server.imaging.pixels import Pixels

TAG = 0x0112
_LAYOUTS = {1: "B", 3: "H", 4: "I"}  # EXIF asks for SHORT; files with BYTE or LONG are understood too
_IN_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([0-9])\s*["'<]""")
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's codes: 1 swaps left and right, 0 top and bottom, -1 both


def from_exif(exif: bytes) -> int | None:
    """Returns the orientation in an EXIF block or TIFF file: 1 to 8, 1 if it is invalid, None if there is none."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return None
    (claimed,) = struct.unpack_from(order + "H", tiff, start)
    there = min(claimed, (len(tiff) - start - 2) // 12)
    for position in range(start + 2, start + 2 + 12 * there, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, position)
        if tag == TAG:
            layout = _LAYOUTS.get(kind) if count == 1 else None
            return 1 if layout is None else sane(struct.unpack_from(order + layout, tiff, position + 8)[0])
    return None


def from_xmp(xmp: bytes) -> int | None:
    """Returns the orientation in an XMP packet: 1 to 8, 1 if it is invalid, None if there is none."""
    found = _IN_XMP.search(xmp)
    return None if found is None else sane(int(found[1]))


def sane(value: object) -> int:
    """Returns `value` if it is an orientation, and 1 otherwise."""
    return value if type(value) is int and 1 <= value <= 8 else 1


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Returns the width and height of the upright photo for those of the stored one, and the other way round."""
    return (size[1], size[0]) if orientation > 4 else size


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns stored pixels uint8 (H, W) or (H, W, n) upright, in place where the sides aren't swapped."""
    turned = cv2.transpose(pixels) if orientation > 4 else pixels
    flip = _FLIPS.get(orientation)
    return turned if flip is None else cv2.flip(turned, flip, dst=turned)
