"""The PNG writer: what others read in its files, what the files are made of, and what they cost."""

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import images
from mattebox_server.imaging import png
from mattebox_server.imaging.pixels import Pixels

KINDS = {1: "L", 3: "RGB", 4: "RGBA"}
CONTENTS: dict[str, Callable[[tuple[int, ...]], Pixels]] = {
    "noise": lambda shape: np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    "zeros": lambda shape: np.zeros(shape, np.uint8),
    "ones": lambda shape: np.full(shape, 255, np.uint8),
    "ramp": lambda shape: (np.arange(np.prod(shape)) * 3).astype(np.uint8).reshape(shape),
    "extremes": lambda shape: np.random.default_rng(1).choice(np.array([0, 1, 254, 255], np.uint8), shape),
}
VIEWS: dict[str, Callable[[Pixels], Pixels]] = {
    "whole": lambda pixels: pixels,
    "crop": lambda pixels: pixels[1:-1, 2:-1],
    "every other": lambda pixels: pixels[::2, ::3],
    "mirrored": lambda pixels: pixels[::-1, ::-1],
    "transposed": lambda pixels: pixels.swapaxes(0, 1),
    "channels": lambda pixels: pixels if pixels.ndim == 2 else pixels[..., ::-1],
    "one of many": lambda pixels: pixels if pixels.ndim == 2 else pixels[..., 0],
    "repeated": lambda pixels: np.broadcast_to(pixels[:1], pixels.shape),
}


def shape_of(width: int, height: int, channels: int) -> tuple[int, ...]:
    return (height, width) if channels == 1 else (height, width, channels)


def check_read(file: bytes, pixels: Pixels) -> None:
    """Both libraries read these pixels, and Pillow what kind they are."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    image = Image.open(io.BytesIO(file))
    assert image.mode == KINDS[channels]
    rgb = pixels if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]]
    assert (np.asarray(image) == rgb).all()
    by_opencv = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert by_opencv is not None
    assert by_opencv.shape == pixels.shape
    assert (np.asarray(by_opencv) == pixels).all()


def chunks(file: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of every chunk; lengths and checksums are right, and nothing is between or behind them."""
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    found: list[tuple[bytes, bytes]] = []
    position = 8
    while position < len(file):
        length, kind = struct.unpack_from(">I4s", file, position)
        content = file[position + 8 : position + 8 + length]
        assert images.png_chunk(kind, content) == file[position : position + 12 + length]
        found.append((kind, content))
        position += 12 + length
    return found


@given(
    size=st.tuples(st.integers(4, 50), st.integers(4, 50)),
    channels=st.sampled_from(list(KINDS)),
    content=st.sampled_from(list(CONTENTS)),
    view=st.sampled_from(list(VIEWS)),
    block_bytes=st.sampled_from([1, 50, 300, 1000, 2**20]),
)
@settings(deadline=None, max_examples=300)
def test_both_libraries_read_what_was_written(
    size: tuple[int, int], channels: int, content: str, view: str, block_bytes: int
) -> None:
    """Blocks of one row, of a few, of all; rows longer than the block."""
    pixels = VIEWS[view](CONTENTS[content](shape_of(*size, channels)))
    before = pixels.copy()
    with mock.patch.object(png, "BLOCK_BYTES", block_bytes):
        file = png.encode(pixels)
    check_read(file, pixels)
    assert (pixels == before).all()
    with mock.patch.object(png, "BLOCK_BYTES", 2**20):
        assert unpacked(png.encode(pixels)) == unpacked(file)


def unpacked(file: bytes) -> bytes:
    return zlib.decompress(b"".join(content for kind, content in chunks(file) if kind == b"IDAT"))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 3000), (3000, 1), (2, 2), (400_000, 1), (400_000, 3)])
@pytest.mark.parametrize("channels", KINDS)
@pytest.mark.parametrize("content", CONTENTS)
def test_dots_lines_and_rows_longer_than_a_block(content: str, channels: int, size: tuple[int, int]) -> None:
    pixels = CONTENTS[content](shape_of(*size, channels))
    check_read(png.encode(pixels), pixels)


@pytest.mark.parametrize("rows", [-1, 0, 1, 2])
@pytest.mark.parametrize("channels", KINDS)
def test_the_border_of_a_block(channels: int, rows: int) -> None:
    """The first block is one row, the next are full; the last has all rows that there are, or one more or less."""
    width = 1000
    height = 1 + 2 * (png.BLOCK_BYTES // (width * channels)) + rows
    pixels = CONTENTS["noise"](shape_of(width, height, channels))
    check_read(png.encode(pixels), pixels)


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), channels=st.sampled_from(list(KINDS)))
@settings(deadline=None)
def test_a_file_has_its_parts_in_order_and_nothing_else(size: tuple[int, int], channels: int) -> None:
    width, height = size
    parts = chunks(png.encode(CONTENTS["noise"](shape_of(width, height, channels))))
    kinds = [kind for kind, _ in parts]
    assert kinds == [b"IHDR", *[b"IDAT"] * (len(parts) - 2), b"IEND"]
    color_type = {1: 0, 3: 2, 4: 6}[channels]
    assert parts[0][1] == struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    assert parts[-1][1] == b""
    unpacker = zlib.decompressobj()
    rows = unpacker.decompress(b"".join(content for _, content in parts[1:-1]))
    assert unpacker.eof
    assert not unpacker.unused_data
    assert len(rows) == height * (1 + width * channels)
    assert set(rows[:: 1 + width * channels]) <= {0, 2, 3}


@pytest.mark.parametrize("content", ["noise", "zeros"])
def test_pixels_come_in_chunks_of_a_few_mebibytes(content: str) -> None:
    parts = [data for kind, data in chunks(png.encode(CONTENTS[content]((2000, 1500, 4)))) if kind == b"IDAT"]
    assert all(0 < len(part) < 3 * 2**20 for part in parts)
    if content == "noise":
        assert len(parts) > 8


@pytest.mark.parametrize("length", [480, 65_519, 2**20])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_profile_stands_before_the_pixels(channels: int, length: int) -> None:
    profile = np.random.default_rng(length).bytes(length)  # can't be compressed
    pixels = CONTENTS["noise"]((37, 50, channels))
    file = png.encode(pixels, profile)
    assert Image.open(io.BytesIO(file)).info["icc_profile"] == profile
    check_read(file, pixels)
    parts = chunks(file)
    assert [kind for kind, _ in parts[:3]] == [b"IHDR", b"iCCP", b"IDAT"]
    name, _, packed = parts[1][1].partition(b"\0\0")  # the second zero: packed as zlib does
    assert name == b"ICC"
    assert zlib.decompress(packed) == profile
    del parts[1]
    assert parts == chunks(png.encode(pixels))


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 5, 2), (4, 5, 5), (2, 4, 5, 3), (0, 5), (4, 0, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="can't hold"):
        png.encode(np.zeros(shape, np.uint8))


def test_other_types_are_refused() -> None:
    deep: Any = np.zeros((4, 5), np.uint16)
    with pytest.raises(ValueError, match="uint16"):
        png.encode(deep)


@pytest.mark.parametrize("channels", KINDS)
def test_memory_beside_the_result(channels: int) -> None:
    """No second picture: what makes the file takes 5 MiB, whatever its size, and the file is there twice at most."""
    pixels = CONTENTS["noise"](shape_of(3000, 2000, channels))
    png.encode(pixels[:10])
    tracemalloc.start()
    try:
        file = png.encode(pixels)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(file) + 5 * 2**20
    finally:
        tracemalloc.stop()


def test_python_runs_elsewhere_while_one_block_is_compressed() -> None:
    """A row that takes one call of many milliseconds; were the interpreter locked, nobody else would see them pass."""
    row = CONTENTS["noise"]((1, 16_000_000))

    def write() -> tuple[float, float]:
        started_s = time.perf_counter()
        png.encode(row)
        return started_s, time.perf_counter()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen_s = [time.perf_counter()]
        while not writing.done():
            seen_s.append(time.perf_counter())
    started_s, ended_s = writing.result()
    assert max(np.diff(seen_s)) < (ended_s - started_s) / 2
