"""How a camera was held: what EXIF and XMP say of it, and turning the photo accordingly.

One reading for all formats, so that it doesn't depend on the decoder. Pillow's own would not do: it copies everything
that a directory's entries point to, and takes 6.0 and "the first of two" for 6.
"""

import re
import struct

import cv2

from mattebox_server.imaging.pixels import Pixels

TAG = 0x0112
_LAYOUTS = {1: "B", 3: "H", 4: "I"}  # SHORT is right, BYTE and LONG can be meant
_IN_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([0-9])\s*["'<]""")
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's: 1 mirrors left and right, 0 top and bottom, -1 both


def from_exif(exif: bytes) -> int | None:
    """The orientation in an EXIF block or TIFF file, 1 to 8, and 1 if it is nonsense; None if there is none."""
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
    """The orientation in an XMP packet, 1 to 8; None if there is none that makes sense."""
    found = _IN_XMP.search(xmp)
    return None if found is None else sane(int(found[1]))


def sane(value: object) -> int:
    """`value` if it is an orientation, else 1."""
    return value if type(value) is int and 1 <= value <= 8 else 1


def swaps_sides(orientation: int) -> bool:
    """Whether the upright photo is as wide as the stored one is high."""
    return orientation > 4


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turns stored pixels (H, W) or (H, W, n) uint8, in place as far as it can; 1 leaves them alone."""
    turned = cv2.transpose(pixels) if swaps_sides(orientation) else pixels
    flip = _FLIPS.get(orientation)
    return turned if flip is None else cv2.flip(turned, flip, dst=turned)
