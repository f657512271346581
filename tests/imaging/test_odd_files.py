"""Tests of files that OpenCV refuses: their pixels are what they were made of, or the error names the reason."""

import base64
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import exif
import images
import profiles
import tiffs
from mattebox_server.errors import BadPhoto, InvalidRequest, PhotoTooLarge
from mattebox_server.imaging.codec import Photo, decode
from mattebox_server.imaging.headers import PhotoLimits, probe

LIMITS = PhotoLimits(max_bytes=40_000_000, max_pixels=1_000_000)
RGB = images.textured(53, 37)
GREY = RGB[..., :1]
DEFLATE, LZMA = (8, zlib.compress), (34925, lzma.compress)


def read(file: bytes, reduction: int = 1) -> Photo:
    return decode(file, probe(file, LIMITS, "photo"), "photo", reduction)


def scaled(pixels: images.Bytes, bits: int) -> NDArray[np.int64]:
    """Scales levels from 0 to 255 to numbers of so many bits."""
    numbers: NDArray[np.int64] = pixels.astype(np.int64) * (2**bits - 1) // 255
    return numbers


def shown(samples: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """Scales numbers of so many bits to levels from 0 to 255."""
    levels: NDArray[np.float64] = samples * 255 / (2**bits - 1)
    return levels


def off(photo: Photo, rgb: NDArray[np.floating]) -> float:
    """Returns the largest difference of a photo from levels (H, W, 3) RGB or (H, W, 1) grey."""
    return float(np.abs(photo.bgr[..., ::-1] - rgb).max())


@pytest.mark.parametrize("method", [(1, bytes), DEFLATE, LZMA], ids=["none", "deflate", "lzma"])
@pytest.mark.parametrize(
    ("bits", "photometric"),
    [
        *((bits, tiffs.GREY) for bits in (1, 2, 4, 8, 12, 16)),
        *((bits, tiffs.MIN_IS_WHITE) for bits in (1, 2, 4, 8, 16)),
    ],
)
def test_grey_of_every_depth(bits: int, photometric: int, method: tuple[int, Callable[[bytes], bytes]]) -> None:
    samples = scaled(GREY, bits)
    photo = read(tiffs.tiff(samples, bits, photometric, compression=method[0], compress=method[1]))
    levels = shown(samples, bits)
    assert off(photo, 255 - levels if photometric == tiffs.MIN_IS_WHITE else levels) <= 1


def test_grey_of_32_bits() -> None:
    samples = scaled(GREY, 32)
    assert off(read(tiffs.tiff(samples, 32, tiffs.GREY)), shown(samples, 32)) <= 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_palettes(bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
    numbers = scaled(GREY, bits)
    table = (320, exif.SHORT, 3 * 2**bits, tiffs.shorts(*(257 * colours.T.ravel()).tolist()))
    photo = read(tiffs.tiff(numbers, bits, tiffs.PALETTE, tags=(table,)))
    assert off(photo, colours[numbers[..., 0]].astype(float)) == 0


@pytest.mark.parametrize("method", [(1, bytes), DEFLATE, LZMA], ids=["none", "deflate", "lzma"])
@pytest.mark.parametrize("bits", [8, 16])
def test_inks(bits: int, method: tuple[int, Callable[[bytes], bytes]]) -> None:
    inks = np.dstack([255 - RGB, GREY // 2])
    file = tiffs.tiff(scaled(inks, bits), bits, tiffs.CMYK, compression=method[0], compress=method[1])
    mixed = RGB * (1 - (GREY // 2) / 255)  # the naive recipe, which both libraries use where there is no profile
    assert off(read(file), mixed) <= 2
    profiled = images.encode(Image.frombytes("CMYK", (53, 37), inks.tobytes()), "TIFF", icc_profile=profiles.printer())
    tag = (34675, 7, len(profiles.printer()), profiles.printer())
    deep = read(tiffs.tiff(scaled(inks, bits), bits, tiffs.CMYK, tags=(tag,)))
    assert (deep.bgr == read(profiled).bgr).all()


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", [(1, bytes), DEFLATE], ids=["none", "deflate"])
def test_floating_point(
    method: tuple[int, Callable[[bytes], bytes]], channels: int, orientation: int, white: int
) -> None:
    """Samples go from 0 to 1, or from 0 to 255, as when Pillow writes floats that were made of 8 bits."""
    samples = (RGB[..., :channels] / 255 * white).astype(np.float32)
    turn = (274, exif.SHORT, 1, tiffs.shorts(orientation))
    kind = tiffs.RGB if channels == 3 else tiffs.GREY
    file = tiffs.tiff(
        samples, 32, kind, sample_format=tiffs.FLOAT, compression=method[0], compress=method[1], tags=(turn,)
    )
    assert off(read(file), exif.turned(RGB[..., :channels], orientation).astype(float)) <= 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_floating_point_beyond_white_and_nonsense(channels: int) -> None:
    samples = np.full((20, 30, channels), 0.5, np.float32)
    samples[0] = [[1.5] * channels]
    samples[1], samples[2], samples[3], samples[4] = np.nan, np.inf, -np.inf, -0.25
    kind = tiffs.RGB if channels == 3 else tiffs.GREY
    photo = read(tiffs.tiff(samples, 32, kind, sample_format=tiffs.FLOAT))
    assert photo.bgr[:6, 0, 0].tolist() == [255, 0, 255, 0, 0, 128]


def test_floating_point_where_0_is_white() -> None:
    samples = (GREY / 255).astype(np.float32)
    photo = read(tiffs.tiff(samples, 32, tiffs.MIN_IS_WHITE, sample_format=tiffs.FLOAT))
    assert off(photo, 255.0 - GREY) <= 0.5


def test_floating_point_keeps_its_profile() -> None:
    profile = profiles.rgb()
    tag = (34675, 7, len(profile), profile)
    samples = (RGB / 255).astype(np.float32)
    assert read(tiffs.tiff(samples, 32, tiffs.RGB, sample_format=tiffs.FLOAT, tags=(tag,))).profile == profile


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK"])
@pytest.mark.parametrize("compression", ["tiff_lzma", "zstd"])
def test_compressions_that_opencv_lacks(compression: str, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    file = images.encode(image, "TIFF", compression=compression)
    assert (read(file).bgr == read(images.encode(image, "TIFF")).bgr).all()


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_old_style_jpeg(subsampling: tuple[int, int]) -> None:
    jpeg = images.encode(images.scene(), "JPEG", quality=95, subsampling=0 if subsampling == (1, 1) else 2)
    photo = read(tiffs.old_jpeg(jpeg, 96, 64, subsampling))
    assert np.abs(photo.bgr[..., ::-1].astype(int) - images.decode(jpeg)).mean() < 2


def bmp(width: int, height: int, packed: bytes) -> bytes:
    """Makes a file of 8 bits a pixel with run lengths, whose palette is grey."""
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(packed), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(packed), 0, 0, start) + header + palette + packed


def test_run_lengths_over_the_row() -> None:
    rows = b"".join(bytes((4, 10, 9, 100 + row, 0, 0)) for row in range(6))  # 4 and 9 of 10 pixels
    photo = read(bmp(10, 6, rows + b"\0\1"))
    assert (photo.bgr[:, :4] == 10).all()
    assert (photo.bgr[::-1, 4:] == 100 + np.arange(6).reshape(6, 1, 1)).all()  # the lowest row comes first


def test_run_lengths_that_would_take_pillow_long() -> None:
    """The file has 16 million runs beyond its row, over which Pillow would spend 10 seconds."""
    with pytest.raises(BadPhoto, match="broken, truncated or unsupported BMP"):
        read(bmp(10, 6, bytes((11, 7)) * 16_000_000))


@pytest.mark.parametrize(
    "code",
    [
        "R0lGODlhAQABAAD/ACwAAAAAAQABAAACADs=",
        "R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=",
        "R0lGODdhAQABAAAAACwAAAAAAQABAAACAkQBADs=",
    ],
    ids=["no-pixel", "one-pixel", "one-pixel-of-1987"],
)
def test_gif_of_one_pixel_without_a_palette(code: str) -> None:
    assert read(base64.b64decode(code)).bgr.tolist() == [[[0, 0, 0]]]


def other(bits: int, photometric: int, channels: int, **options: int) -> bytes:
    """Makes a black file of a kind that neither library reads."""
    samples = np.zeros((4, 5, channels), np.int64)
    return tiffs.tiff(samples, bits, photometric, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (other(8, tiffs.RGB, 3, compression=34887), "TIFF whose compression (LERC) can't be read here"),
        (other(8, tiffs.RGB, 3, compression=34712), "TIFF whose compression (JPEG 2000) can't be read here"),
        (other(8, tiffs.RGB, 3, compression=50001), "or one whose compression (WebP) can't be read here"),
        (other(8, tiffs.RGB, 3, compression=34925), "or one whose compression (LZMA) can't be read here"),
        (other(8, tiffs.RGB, 3, compression=12345), "TIFF whose compression (number 12345) can't be read here"),
        (other(12, tiffs.RGB, 3), "TIFF whose kind of pixels (3 x 12 bits) can't be read here"),
        (other(4, tiffs.RGB, 3), "TIFF whose kind of pixels (3 x 4 bits) can't be read here"),
        (other(12, tiffs.MIN_IS_WHITE, 1), "TIFF whose kind of pixels (1 x 12 bits) can't be read here"),
        (other(16, tiffs.GREY, 1, sample_format=3), "TIFF whose kind of pixels (1 x 16 bits, floating point)"),
        (other(32, tiffs.GREY, 1, sample_format=2), "or one whose kind of pixels (1 x 32 bits, signed)"),
        (other(16, tiffs.CMYK, 4, in_planes=True), "or one whose kind of pixels (4 x 16 bits, in planes)"),
    ],
)
def test_what_neither_reads_is_refused_with_the_reason(file: bytes, says: str) -> None:
    with pytest.raises(BadPhoto) as caught:
        read(file)
    assert says in str(caught.value)


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31, 2**31), (1001, 1000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_limit_on_pixels_comes_before_every_decoder(channels: int, size: tuple[int, int]) -> None:
    kind = tiffs.RGB if channels == 3 else tiffs.GREY
    tags = ((256, exif.LONG, 1, tiffs.longs(size[0])), (257, exif.LONG, 1, tiffs.longs(size[1])))
    for bits, sample_format in ((32, tiffs.FLOAT), (12, tiffs.UNSIGNED)):
        samples = np.zeros((4, 5, channels), np.float32 if sample_format == tiffs.FLOAT else np.int64)
        with pytest.raises(PhotoTooLarge, match="the limit"):
            read(tiffs.tiff(samples, bits, kind, sample_format=sample_format, tags=tags))


def test_floating_point_counts_twice() -> None:
    file = tiffs.tiff(np.zeros((4, 5, 3), np.float32), 32, tiffs.RGB, sample_format=tiffs.FLOAT)
    assert probe(file, PhotoLimits(10_000, 40), "photo").pixels == 40
    with pytest.raises(PhotoTooLarge, match="5x4 pixels in floating point, the limit is 19 in all"):
        probe(file, PhotoLimits(10_000, 39), "photo")


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_no_pixels_at_all(size: tuple[int, int]) -> None:
    tags = ((256, exif.LONG, 1, tiffs.longs(size[0])), (257, exif.LONG, 1, tiffs.longs(size[1])))
    with pytest.raises(BadPhoto):
        read(tiffs.tiff(np.zeros((4, 5, 3), np.float32), 32, tiffs.RGB, sample_format=tiffs.FLOAT, tags=tags))


@pytest.mark.parametrize(("compression", "compress"), [DEFLATE, LZMA], ids=["deflate", "lzma"])
def test_a_tile_far_larger_than_the_image_is_refused(compression: int, compress: Callable[[bytes], bytes]) -> None:
    """Here 16 kB stand for a tile of 16 MB; 400 kB would do for 400 MB."""
    with pytest.raises(BadPhoto, match="tiles are larger than the image"):
        read(tiffs.tiled(16, 16, 4096, compress, compression))
    assert not read(tiffs.tiled(16, 16, 1024, compress, compression)).bgr.any()


def test_entries_that_all_point_to_the_same_bytes_take_no_memory() -> None:
    """The file is of a kind that Pillow can't open, so that its tags are read twice."""
    size = 1_000_000
    tags = tuple((1000 + number, exif.LONG, size // 4, bytes(size)) for number in range(20))
    file = tiffs.tiff(np.zeros((4, 5, 3), np.int64), 12, tiffs.RGB, tags=tags)
    tracemalloc.start()
    try:
        with pytest.raises(BadPhoto, match="3 x 12 bits"):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(file)
    finally:
        tracemalloc.stop()


ODD = [
    tiffs.tiff(scaled(GREY, 12), 12, tiffs.GREY),
    tiffs.tiff((RGB / 255).astype(np.float32), 32, tiffs.RGB, sample_format=tiffs.FLOAT),
    tiffs.tiff(scaled(GREY, 2), 2, tiffs.GREY, compression=34925, compress=lzma.compress),
    tiffs.old_jpeg(images.encode(images.scene(), "JPEG"), 96, 64),
    bmp(10, 6, bytes((12, 7, 0, 0)) * 6 + b"\0\1"),
]


@given(file=st.sampled_from(ODD), data=st.data())
@settings(deadline=None, max_examples=300)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_decoded_never_worse(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(300, len(file) - 1)))] = data.draw(st.integers(0, 255))
    try:
        photo = read(bytes(damaged[: data.draw(st.integers(0, len(file)))]))
    except InvalidRequest as error:
        assert [violation.field for violation in error.violations] == ["photo"]
    else:
        assert photo.bgr.dtype == np.uint8
        assert photo.bgr.shape[0] * photo.bgr.shape[1] <= LIMITS.max_pixels
