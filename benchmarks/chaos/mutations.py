"""Broken photos and requests, made from a seed: the corpus of the fuzz tests and of the fault benchmark."""

import io
import random
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from mattebox.v1 import background_removal_pb2 as pb

_SIDES = (0, 1, 2, 255, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "GIF")
_MODES = ("RGB", "L", "RGBA", "P", "CMYK", "I;16")


def photos() -> list[bytes]:
    """Returns small valid files of every format and pixel mode, with EXIF and a profile where the format has them."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)).resize((60, 36))
    exif = Image.Exif()
    exif[0x0112] = 6
    files: list[bytes] = []
    for image_format in _FORMATS:
        for mode in _MODES:
            file = io.BytesIO()
            try:
                pixels.convert(mode).save(file, image_format, exif=exif, icc_profile=b"\0" * 200)
            except (OSError, ValueError, KeyError):  # a format without this mode
                continue
            files.append(file.getvalue())
    return files


def mutated(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yields this many files, each a seed with one to four random changes."""
    chance = random.Random(seed)
    ways = (_cut, _flip, _overwrite, _repeat, _swap, _number, _join, _zero)
    for _ in range(count):
        file = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            if file:
                file = chance.choice(ways)(file, chance, seeds)
        yield bytes(file)


def _cut(file: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    return file[: chance.randrange(len(file))]


def _flip(file: bytearray, chance: random.Random, seeds: list[bytes]) -> bytearray:  # noqa: ARG001
    for _ in range(chance.choice((1, 3, 30))):
        file[_place(file, chance)] ^= 1 << chance.randrange(8)
    return file


def _overwrite(file: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    start = _place(file, chance)
    noise = chance.randbytes(chance.choice((1, 4, 64)))
    file[start : start + len(noise)] = noise
    return file


def _repeat(file: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    start = _place(file, chance)
    part = file[start : start + chance.choice((1, 16, 200))]
    return file[:start] + part * chance.choice((2, 5, 50)) + file[start:]


def _swap(file: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    one, two = sorted((_place(file, chance), _place(file, chance)))
    return file[two:] + file[one:two] + file[:one]


def _number(file: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    """Overwrites a number in the headers with a length, an offset or a side at a limit of its type."""
    start = _place(file, chance)
    form = chance.choice((">I", "<I", ">H", "<H"))
    value = struct.pack(form, chance.choice(_SIDES) % 2 ** (8 * struct.calcsize(form)))
    file[start : start + len(value)] = value
    return file


def _join(file: bytearray, chance: random.Random, seeds: list[bytes]) -> bytearray:
    return file[: chance.randrange(len(file) + 1)] + chance.choice(seeds)


def _zero(file: bytearray, chance: random.Random, _: list[bytes]) -> bytearray:
    start = _place(file, chance)
    end = min(len(file), start + chance.choice((4, 40, 400)))
    file[start:end] = bytes(end - start)
    return file


def _place(file: bytearray, chance: random.Random) -> int:
    """Returns a random position, more often near the start, where the headers are."""
    return chance.randrange(min(len(file), chance.choice((64, 400, len(file)))))


def requests(seeds: list[bytes], count: int, seed: int) -> Iterator[pb.RemoveBackgroundRequest]:
    """Yields this many requests, with broken photos and with fields at and beyond their limits."""
    chance = random.Random(seed)
    for file in mutated(seeds, count, seed):
        request = pb.RemoveBackgroundRequest()
        data = file if chance.random() < 0.5 else chance.choice(seeds)
        if chance.random() < 0.8:
            request.encoded = data
        elif chance.random() < 0.9:
            sides = chance.choice(_SIDES), chance.choice(_SIDES)
            request.raw.width, request.raw.height = chance.choice(((3, 2), sides))
            request.raw.pixel_format = chance.choice((0, 1, 3, 5, 99))  # type: ignore[assignment]
            request.raw.data = bytes(chance.choice((0, 6, 18, 24)))
        if chance.random() < 0.5:
            _break_options(request, data, chance)
        yield request


def _break_options(request: pb.RemoveBackgroundRequest, data: bytes, chance: random.Random) -> None:
    number = chance.choice((0, 1, 7, 100, 101, 2**31, 2**32 - 1))
    request.model = chance.choice(("", "", "nothing", "\u9ec4" * 90, "../../etc/passwd"))
    request.keep.extend(chance.choice(([], ["thing"], ["red"] * 300, [""], ["x" * 5000])))
    request.matte.method = chance.choice((0, 1, 2, 3, 4, 77))  # type: ignore[assignment]
    request.matte.blur_kernel_px = chance.choice((0, 0, number))
    request.matte.keep_edge_colors = chance.random() < 0.3
    match chance.randrange(5):
        case 0:
            request.background.color.red = number
        case 1:
            request.background.image = data
        case 2:
            request.background.blur.sigma_px = chance.choice((0.0, 12.0, -1.0, float("nan"), float("inf"), 1e30))
        case 3:
            request.background.transparent.SetInParent()
        case _:
            pass
    request.output.format = chance.choice((0, 1, 2, 3, 4, 50))  # type: ignore[assignment]
    request.output.quality = chance.choice((0, 0, number))
    if chance.random() < 0.3:
        request.output.longest_side_px = number
    if chance.random() < 0.3:
        request.output.crop.margin_px = number
    request.output.include_alpha = chance.random() < 0.3
    request.output.alpha_only = chance.random() < 0.2
