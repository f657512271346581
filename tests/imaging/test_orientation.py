"""Tests of orientation: each value in each place that can hold one, and nonsense in each place."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

import exif
import images
from mattebox_server.errors import InvalidRequest
from mattebox_server.imaging import orientation
from mattebox_server.imaging.codec import Photo, decode
from mattebox_server.imaging.headers import PhotoLimits, probe

LIMITS = PhotoLimits(max_bytes=10_000_000, max_pixels=1_000_000)
STORED: images.Bytes = np.kron([[0, 40, 80], [120, 160, 200]], np.ones((16, 16))).astype(np.uint8)  # six fields
SIX = struct.pack("<H", 6)
KINDS = ["JPEG", "PNG", "PNG-alpha", "WEBP", "WEBP-alpha"]

NONSENSE = {
    "0": exif.orientation(0),
    "9": exif.orientation(9),
    "65535": exif.orientation(65535),
    "text": exif.block((exif.ORIENTATION, exif.ASCII, 2, b"6\0")),
    "ratio": exif.block((exif.ORIENTATION, exif.RATIONAL, 1, struct.pack("<II", 6, 1))),
    "float": exif.block((exif.ORIENTATION, exif.FLOAT, 1, struct.pack("<f", 6))),
    "two": exif.block((exif.ORIENTATION, exif.SHORT, 2, SIX * 2)),
    "none": exif.block((exif.ORIENTATION, exif.SHORT, 0, SIX)),
    "2**32-1": exif.block((exif.ORIENTATION, exif.LONG, 1, b"\xff" * 4)),
    "empty": b"",
    "text-block": b"Dear camera",
    "stub": b"II*\0",
    "outside": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "at-itself": b"II*\0" + struct.pack("<I", 0),
    "cut": exif.orientation(6)[:20],
    "endless": exif.block(claimed=65535) + bytes(100),
}


def picture(alpha: bool) -> Image.Image:
    image = Image.fromarray(np.dstack([STORED] * 3))
    if alpha:
        image.putalpha(Image.fromarray(255 - STORED))
    return image


def file(kind: str, block: bytes | None, xmp: bytes | None = None) -> bytes:
    image_format, _, alpha = kind.partition("-")
    options: dict[str, object] = {"lossless": True} if image_format == "WEBP" else {}
    if xmp is not None and image_format == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp is not None:
        options["xmp"] = xmp
    if block is not None:
        options["exif"] = b"Exif\0\0" + block
    return images.encode(picture(bool(alpha)), image_format, **options)


def tiff(pixels: images.Bytes, *entries: exif.Entry) -> bytes:
    """Makes an uncompressed TIFF file with further tags."""
    height, width, channels = pixels.shape

    def directory(at: int) -> bytes:
        numbers = {256: width, 257: height, 262: 2, 273: at, 277: channels, 278: height, 279: pixels.size}
        tags = [(tag, exif.LONG, 1, struct.pack("<I", number)) for tag, number in numbers.items()]
        tags.append((258, exif.SHORT, channels, struct.pack("<H", 8) * channels))
        tags += [(338, exif.SHORT, 1, struct.pack("<H", 2))] * (channels == 4)
        return exif.block(*sorted([*tags, *entries]))

    return directory(len(directory(0))) + pixels.tobytes()


def check(data: bytes, expected: int) -> None:
    header = probe(data, LIMITS, "photo")
    photo: Photo = decode(data, header, "photo")
    upright = exif.turned(STORED, expected)
    assert (header.height_px, header.width_px) == upright.shape
    assert photo.bgr.shape[:2] == upright.shape
    assert np.abs(photo.bgr.astype(int) - upright[..., np.newaxis]).max() < 12
    if photo.alpha is not None:
        assert (photo.alpha == 255 - upright).all()


@pytest.mark.parametrize("expected", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [*KINDS, "AVIF"])
def test_in_exif(kind: str, order: str, expected: int) -> None:
    check(file(kind, exif.orientation(expected, order)), expected)


@pytest.mark.parametrize("expected", range(1, 9))
@pytest.mark.parametrize("alpha", [False, True])
def test_in_tiff(alpha: bool, expected: int) -> None:
    pixels = np.asarray(picture(alpha))
    check(tiff(pixels, (exif.ORIENTATION, exif.SHORT, 1, struct.pack("<H", expected))), expected)


@pytest.mark.parametrize("expected", range(1, 9))
@pytest.mark.parametrize("form", ['tiff:Orientation="%d"', "<tiff:Orientation>%d</tiff:Orientation>"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_xmp(kind: str, form: str, expected: int) -> None:
    check(file(kind, None, f"<x:xmpmeta>{form % expected}</x:xmpmeta>".encode()), expected)


@pytest.mark.parametrize("said", ["0", "9", "65535", "10", "six", "6.5e3", "-6", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_in_xmp_is_one(kind: str, said: str) -> None:
    check(file(kind, None, f'<x:xmpmeta tiff:Orientation="{said}"/>'.encode()), 1)


@pytest.mark.parametrize(("block", "expected"), [(exif.orientation(3), 3), (NONSENSE["9"], 1), (exif.block(), 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_exif_comes_before_xmp(kind: str, block: bytes, expected: int) -> None:
    check(file(kind, block, b'<x:xmpmeta tiff:Orientation="6"/>'), expected)


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*EXIF")
def test_nonsense_in_exif_is_one(kind: str, nonsense: str) -> None:
    check(file(kind, NONSENSE[nonsense]), 1)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    "entry",
    [
        (exif.SHORT, 1, struct.pack("<H", 0)),
        (exif.SHORT, 1, struct.pack("<H", 9)),
        (exif.SHORT, 1, struct.pack("<H", 65535)),
        (exif.ASCII, 2, b"6\0"),
        (exif.RATIONAL, 1, struct.pack("<II", 6, 1)),
        (exif.SHORT, 2, SIX * 2),
        (exif.SHORT, 0, SIX),
    ],
    ids=["0", "9", "65535", "text", "ratio", "two", "none"],
)
@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_nonsense_in_tiff_is_one(alpha: bool, entry: tuple[int, int, bytes]) -> None:
    check(tiff(np.asarray(picture(alpha)), (exif.ORIENTATION, *entry)), 1)


@pytest.mark.parametrize("alpha", [False, True])
def test_tiff_has_a_tag_of_its_own_and_needs_no_xmp(alpha: bool) -> None:
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    check(tiff(np.asarray(picture(alpha)), (700, exif.BYTE, len(xmp), xmp)), 1)


@pytest.mark.parametrize("kind", ["PNG", "PNG-alpha"])
def test_behind_the_pixels(kind: str) -> None:
    plain = file(kind, None)
    end = plain.index(b"IEND") - 4
    check(plain[:end] + images.png_chunk(b"eXIf", exif.orientation(6)) + plain[end:], 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_follows_itself(kind: str) -> None:
    check(file(kind, exif.block((exif.ORIENTATION, exif.SHORT, 1, SIX), following=8)), 6)


@given(st.data())
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_block_never_stops_a_photo(data: st.DataObject) -> None:
    block = bytearray(exif.orientation(6, data.draw(st.sampled_from("<>"))) + bytes(20))
    for _ in range(data.draw(st.integers(0, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(block[: data.draw(st.integers(0, len(block)))])
    found = orientation.from_exif(cut)
    check(file(data.draw(st.sampled_from(KINDS)), cut), found or 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_entries_that_all_point_to_the_same_bytes_take_no_memory(kind: str) -> None:
    """The file of 1.2 MB has 20000 entries of 1 MB each."""
    size = 1_000_000
    entries = b"".join(struct.pack("<HHII", 1000 + number, 7, size, 8) for number in range(20_000))
    block = b"II*\0" + struct.pack("<IH", 8, 20_000) + entries + bytes(size)
    if kind == "TIFF":
        data = block
    elif kind == "JPEG":  # in pieces, which readers join
        pieces = [b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000)]
        plain = file(kind, None)
        data = plain[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece for piece in pieces)
        data += plain[2:]
    else:
        data = file(kind, block)
    tracemalloc.start()
    try:
        probe(data, LIMITS, "photo")
    except InvalidRequest:
        assert kind == "TIFF"
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 50_000_000
