"""Makes ICC profiles by hand, and computes their colours without a colour library."""

import struct

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# The columns are full red, green and blue, as XYZ under D50.
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
GAMMA = 563 / 256  # 2.2 in the precision of a profile
_D50 = (0.9642, 1.0, 0.8249)


def profile(space: bytes, device: bytes, pcs: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """Makes a profile of version 2.1 of these tags and of those that every profile needs."""
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [(b"desc", description), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", xyz(_D50)), *tags]
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x02100000, device, space, pcs) + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", *(round(65536 * value) for value in _D50))
    return head.ljust(128, b"\0") + table + body


def xyz(values: ArrayLike) -> bytes:
    """Encodes a colour for a profile."""
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in np.asarray(values).tolist()))


def curve(gamma: float) -> bytes:
    """Encodes a tone curve: light is number ** gamma."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))


def rgb(primaries: Floats = DISPLAY_P3) -> bytes:
    """Makes the profile of a display, of three colours and gamma 2.2."""
    colours = [(letter + b"XYZ", xyz(primaries[:, at])) for at, letter in enumerate((b"r", b"g", b"b"))]
    curves = [(letter + b"TRC", curve(GAMMA)) for letter in (b"r", b"g", b"b")]
    return profile(b"RGB ", b"mntr", b"XYZ ", colours + curves)


def grey(gamma: float) -> bytes:
    """Makes the profile of a grey scale."""
    return profile(b"GRAY", b"mntr", b"XYZ ", [(b"kTRC", curve(gamma))])


def table(space: bytes, device: bytes, nodes: Floats) -> bytes:
    """Makes a profile that converts in one direction only: a table of Lab colours at the corners of the space.

    Args:
        space: the profile's name of the colour model.
        device: the profile's name of the kind of device.
        nodes: the colours, (2, ..., 2, 3), L from 0 to 100, a and b from -128 to 127.
    """
    inputs = nodes.ndim - 1
    stored = np.rint(nodes * (2.55, 1, 1) + (0, 128, 128)).astype(np.uint8)
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((inputs, 3, 2, 0)) + identity + ramp * inputs + stored.tobytes() + ramp * 3
    return profile(space, device, b"Lab ", [(b"A2B0", lut)])


def inks() -> Floats:
    """Returns the Lab colours (2, 2, 2, 2, 3) of all mixtures of four inks. All mixtures with black ink are black."""
    nodes = np.zeros((2, 2, 2, 2, 3))
    for cyan, magenta, yellow in np.ndindex(2, 2, 2):
        lab = (100 - 18 * (cyan + magenta + yellow), 24 * (magenta - cyan), 24 * yellow - 14 * cyan)
        nodes[cyan, magenta, yellow, 0] = lab
    return nodes


def printer() -> bytes:
    """Makes the profile of a CMYK printer."""
    return table(b"CMYK", b"prtr", inks())


def scanner() -> bytes:
    """Makes the profile of an RGB scanner with a dark red, which converts numbers to colours but not back."""
    nodes = np.zeros((2, 2, 2, 3))
    for red, green, blue in np.ndindex(2, 2, 2):
        nodes[red, green, blue] = (20 * red + 50 * green + 30 * blue, 20 * (red - green), 20 * (green - blue))
    nodes[1, 1, 1] = (100, 0, 0)
    return table(b"RGB ", b"scnr", nodes)


def srgb_from_light(light: Floats) -> Floats:
    """Converts linear red, green and blue in [0, 1] to sRGB numbers in [0, 255], and cuts off what is outside."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light_from_srgb(numbers: ArrayLike) -> Floats:
    """Converts sRGB numbers in [0, 255] to linear red, green and blue in [0, 1]."""
    share = np.asarray(numbers, np.float64) / 255
    light: Floats = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return light


def srgb_from_xyz(colours: Floats) -> Floats:
    """Converts XYZ (..., 3) under D50 to sRGB numbers."""
    return srgb_from_light(colours @ np.linalg.inv(SRGB).T)


def srgb_from_lab(lab: Floats) -> Floats:
    """Converts Lab (..., 3) under D50 to sRGB numbers."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    return srgb_from_xyz(np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _D50)


def p3_from_srgb(numbers: ArrayLike) -> Floats:
    """Converts sRGB numbers (..., 3) to numbers of the profile `rgb()`, both red, green, blue in [0, 255]."""
    light = light_from_srgb(numbers) @ SRGB.T @ np.linalg.inv(DISPLAY_P3).T
    cut: Floats = 255 * np.clip(light, 0, 1) ** (1 / GAMMA)
    return cut
