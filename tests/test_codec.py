"""Codecs: both decoders against each other, headers against limits, round trips, hostile bytes."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import images
from mattebox_server.codec import Limits, Photo, decode, encode, from_raw, probe
from mattebox_server.errors import InvalidRequest
from mattebox_server.options import ImageFormat, PixelFormat, RawPhoto

LIMITS = Limits(max_bytes=10_000_000, max_pixels=1_000_000)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def read(file: bytes) -> Photo:
    return decode(file, probe(file, LIMITS, "photo"), "photo")


def pillow(file: bytes) -> images.Bytes:
    """RGB as Pillow reads it."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_every_format_and_mode_reads_as_pillow_does(image_format: str, mode: str) -> None:
    image = Image.fromarray(images.textured(50, 37)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(images.textured(50, 37)[..., 0]))
    try:
        file = images.encode(image, image_format)
    except (OSError, ValueError):
        pytest.skip(f"there is no {mode} {image_format}")
    photo = read(file)
    assert np.abs(photo.bgr[..., ::-1].astype(int) - pillow(file)).max() <= 2
    alpha = np.asarray(Image.open(io.BytesIO(file)).convert("RGBA"))[..., 3]
    assert (alpha == (255 if photo.alpha is None else photo.alpha)).all()
    assert (photo.alpha is None) == (alpha.min() == 255)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_variants(progressive: bool, subsampling: int) -> None:
    file = images.encode(images.textured(61, 47), "JPEG", progressive=progressive, subsampling=subsampling)
    assert np.abs(read(file).bgr[..., ::-1].astype(int) - pillow(file)).max() <= 2


@given(size=SIZES, seed=st.integers(0, 99), channels=st.sampled_from([1, 3, 4]))
@settings(deadline=None, max_examples=60)
def test_png_and_raw_are_lossless(size: tuple[int, int], seed: int, channels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    pixels = pixels[..., 0] if channels == 1 else pixels
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    rgb = pixels if channels == 1 else pixels[..., order]
    assert (images.decode(encode(pixels, ImageFormat.PNG, 90)) == rgb).all()
    assert encode(pixels, ImageFormat.RAW, 90) == rgb.tobytes()


@given(size=SIZES, seed=st.integers(0, 99), pixel_format=st.sampled_from(PixelFormat))
@settings(deadline=None, max_examples=60)
def test_raw_photos(size: tuple[int, int], seed: int, pixel_format: PixelFormat) -> None:
    width, height = size
    data = np.random.default_rng(seed).integers(0, 256, (height, width, pixel_format.channels), np.uint8)
    photo = from_raw(RawPhoto(data.tobytes(), width, height, pixel_format))
    for position, letter in enumerate("bgr"):
        source = 0 if pixel_format is PixelFormat.GRAY8 else pixel_format.value.index(letter)
        assert (photo.bgr[..., position] == data[..., source]).all()
    if "a" in pixel_format.value:
        assert photo.alpha is not None
        assert (photo.alpha == data[..., 3]).all()
    else:
        assert photo.alpha is None


WHOLE = [
    images.encode(images.textured(40, 30), image_format)
    for image_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
]


@given(file=st.sampled_from(WHOLE), data=st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_files_are_refused_or_decoded_never_worse(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(file)))
    try:
        photo = read(bytes(damaged[:cut]))
    except InvalidRequest as error:
        assert [violation.field for violation in error.violations] == ["photo"]
    else:
        assert photo.bgr.dtype == np.uint8
        assert photo.bgr.shape[0] * photo.bgr.shape[1] <= LIMITS.max_pixels


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(noise)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bits_with_a_transparent_colour(colours: int, orientation: int) -> None:
    """Pillow loses it; the file is put together by hand, because Pillow can't write it either."""
    deep = np.full((4, 6, colours), 45000, ">u2")
    deep[:, :2] = 1000
    key = struct.pack(">H", 1000) * colours
    kind = {1: 0, 3: 2}[colours]
    header = struct.pack(">IIBBBBB", 6, 4, 16, kind, 0, 0, 0)
    exif = images.exif_orientation(orientation).tobytes().removeprefix(b"Exif\0\0")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    chunks = ((b"IHDR", header), (b"tRNS", key), (b"eXIf", exif), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    photo = read(b"\x89PNG\r\n\x1a\n" + b"".join(images.png_chunk(*chunk) for chunk in chunks))
    upright = np.rot90(deep[..., 0], -1) if orientation == 6 else deep[..., 0]
    assert photo.alpha is not None
    assert (photo.alpha == np.where(upright == 1000, 0, 255)).all()
    assert (photo.bgr == (upright >> 8)[..., np.newaxis]).all()


def test_a_hidden_colour_of_a_transparent_photo_stays_apart() -> None:
    rgba = np.dstack([images.textured(20, 10), np.zeros((10, 20), np.uint8)])
    photo = read(images.encode(rgba))
    assert photo.alpha is not None
    assert not photo.alpha.any()


def test_opaque_alpha_is_no_alpha() -> None:
    rgba = np.dstack([images.textured(20, 10), np.full((10, 20), 255, np.uint8)])
    assert read(images.encode(rgba)).alpha is None
