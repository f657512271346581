"""Tests of the codec: both decoders against each other, depths, round trips, hostile bytes, memory and time."""

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
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
from mattebox_server.errors import InvalidRequest
from mattebox_server.imaging.codec import Photo, decode, encode, from_raw
from mattebox_server.imaging.headers import PhotoLimits, probe
from mattebox_server.request import BYTES_A_PIXEL, ImageFormat, PixelFormat, RawPhoto

LIMITS = PhotoLimits(max_bytes=10_000_000, max_pixels=1_000_000)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def read(file: bytes) -> Photo:
    return decode(file, probe(file, LIMITS, "photo"), "photo")


def pillow(file: bytes) -> images.Bytes:
    """Decodes to RGB with Pillow."""
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
    deep = np.full((4, 6, colours), 45000, np.uint16)
    deep[:, :2] = 1000
    key = struct.pack(">H", 1000) * colours
    photo = read(png(deep, {1: 0, 3: 2}[colours], (b"tRNS", key), (b"eXIf", exif.orientation(orientation))))
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


def png(pixels: NDArray[np.uint16], kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """16 bits a channel, which Pillow writes for grey alone; chunks in front of the pixels."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    ordered = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(images.png_chunk(*chunk) for chunk in ordered)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_of_every_kind(kind: int, channels: int) -> None:
    deep = np.random.default_rng(kind).integers(0, 2**16, (7, 9, channels), np.uint16)
    photo = read(png(deep, kind))
    colour = deep[..., : 3 if channels > 2 else 1]
    assert (photo.bgr[..., ::-1] == (colour >> 8)).all()
    assert (photo.alpha is None) == (channels in {1, 3})
    if photo.alpha is not None:
        assert (photo.alpha == deep[..., -1] >> 8).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_lines_and_dots(image_format: str, mode: str, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (210, 40, 90)).convert(mode)
    if mode == "RGBA":
        image.putalpha(120)
    try:
        options = {"lossless": True} if image_format == "WEBP" else {}
        file = images.encode(image, image_format, exif=images.exif_orientation(6), **options)
    except (OSError, ValueError):
        pytest.skip(f"there is no {mode} {image_format}")
    photo = read(file)
    turned = image_format not in {"GIF", "BMP"}
    assert photo.bgr.shape[:2] == (size if turned else size[::-1])
    assert np.abs(photo.bgr[..., ::-1].astype(int) - pillow(file)[0, 0]).max() <= 2
    if mode == "RGBA" and image_format not in {"GIF", "BMP"}:
        assert photo.alpha is not None
        assert (photo.alpha == 120).all()


@pytest.mark.parametrize("adobe", ["CMYK", "YCCK", "none"])
def test_cmyk_jpeg_is_inverted_with_and_without_the_marker(adobe: str) -> None:
    """As Photoshop writes it and browsers show it, whatever the standard says of files without the marker."""
    rgb = images.scene()
    file = images.encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95, subsampling=0)
    at = file.index(b"\xff\xee\0\x0eAdobe")
    if adobe == "none":
        file = file[:at] + file[at + 16 :]
    elif adobe == "YCCK":
        file = file[: at + 15] + b"\2" + file[at + 16 :]
    found = read(file).bgr[..., ::-1].astype(int)
    assert np.abs(found - pillow(file)).max() <= 3
    if adobe != "YCCK":  # the pixels weren't made for it
        assert np.abs(found - rgb).mean() < 3


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (1, 50), (50, 1)])
@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP"])
def test_damaged_sizes(suffix: str, size: tuple[int, int]) -> None:
    """A header of another file of the same format: what is decoded must have the size that was promised."""
    header = probe(images.encode(images.textured(31, 41), suffix), LIMITS, "photo")
    with pytest.raises(InvalidRequest, match="another size"):
        decode(images.encode(images.textured(*size), suffix), header, "photo")


PEAK = """
import sys
from pathlib import Path
import numpy as np
from mattebox_server.imaging.codec import decode, encode
from mattebox_server.imaging.headers import PhotoLimits, probe
from mattebox_server.request import ImageFormat

def held(what):
    return 1024 * int(Path("/proc/self/status").read_text().partition(what + ":")[2].split()[0])

def decoded(path):
    file = Path(path).read_bytes()
    return decode(file, probe(file, PhotoLimits(2**30, 2**30), ""), "")

def photo_bytes(photo):
    return photo.bgr.nbytes + (0 if photo.alpha is None else photo.alpha.nbytes)

small = decoded(sys.argv[2])
if sys.argv[1] == "decode":
    work, size = lambda: decoded(sys.argv[3]), photo_bytes
else:
    encode(small.bgr, ImageFormat[sys.argv[1]], 90)
    photo = decoded(sys.argv[3])
    pixels = np.dstack([photo.bgr, photo.bgr[..., 0]]) if sys.argv[1] == "PNG" else photo.bgr
    work, size = lambda: encode(pixels, ImageFormat[sys.argv[1]], 90, b"profile"), len
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = held("VmRSS")
made = work()
print(held("VmHWM") - before - size(made))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's to tell")
@pytest.mark.parametrize(
    ("work", "image_format", "mode"),
    [
        *(("decode", image_format, "RGBA") for image_format in ("PNG", "WEBP", "TIFF", "AVIF")),
        *(("decode", image_format, "RGB") for image_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF")),
        ("decode", "TIFF", "12 bits"),
        ("decode", "TIFF", "grey float"),
        ("decode", "TIFF", "float"),
        ("decode", "PNG", "keyed"),
        ("decode", "JPEG", "CMYK"),
        *((image_format, "JPEG", "RGB") for image_format in ("PNG", "JPEG", "WEBP", "RAW")),
    ],
)
def test_memory_beside_the_result(work: str, image_format: str, mode: str, tmp_path: Path) -> None:
    """At most 12 bytes a pixel, with a profile to convert from (CMYK) or to embed; of a 6 megapixel photo.

    Colours in floating point take up to 37 with the photo, and count for two pixels of 20 bytes each.
    """
    for name, size in (("small", (60, 40)), ("large", (3000, 2000))):
        (tmp_path / name).write_bytes(memory_file(image_format, mode, size))
    command = [sys.executable, "-c", PEAK, work, str(tmp_path / "small"), str(tmp_path / "large")]
    peak_bytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak_bytes / (3000 * 2000) < (2 * BYTES_A_PIXEL - 3 if mode == "float" else 12)


def memory_file(image_format: str, mode: str, size: tuple[int, int]) -> bytes:
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.uint8)
    rgb = np.dstack([ramp, ramp, ramp[:, ::-1]])
    if mode == "12 bits":
        return tiffs.tiff(rgb[..., :1].astype(np.int64) * 16, 12, tiffs.GREY)
    if "float" in mode:
        samples = rgb[..., :1] if mode == "grey float" else rgb
        kind = tiffs.GREY if mode == "grey float" else tiffs.RGB
        return tiffs.tiff((samples / 255).astype(np.float32), 32, kind, sample_format=tiffs.FLOAT)
    if mode == "keyed":
        return png(rgb.astype(np.uint16), 2, (b"tRNS", bytes(6)))
    image = Image.fromarray(rgb)
    if mode == "CMYK":
        return images.encode(image.convert("CMYK"), image_format, icc_profile=profiles.printer())
    if mode == "RGBA":
        image.putalpha(Image.fromarray(ramp))
    options = {"PNG": {"compress_level": 1}, "WEBP": {"method": 0, "quality": 50}, "AVIF": {"speed": 10}}
    return images.encode(image, image_format, **options.get(image_format, {}))


def test_png_is_fast_for_cutouts_and_small_for_photos() -> None:
    """Against what OpenCV does by default, for a cutout with the hidden colours left in; a fifth of it is subject."""
    photo = images.textured(1000, 600)
    rows, columns = np.ogrid[-1:1:600j, -1:1:1000j]
    alpha = np.where(rows**2 + columns**2 < 0.25, 255, 0).astype(np.uint8)
    whole = np.dstack([photo, alpha])
    cutout = whole * (alpha > 0)[..., np.newaxis]

    def best_s(work: Callable[[], object]) -> float:
        times: list[float] = []
        for _ in range(7):
            started_s = time.process_time()
            work()
            times.append(time.process_time() - started_s)
        return min(times)

    assert best_s(lambda: encode(cutout, ImageFormat.PNG, 90)) < best_s(lambda: cv2.imencode(".png", whole)) / 2
    assert len(encode(cutout, ImageFormat.PNG, 90)) < len(cv2.imencode(".png", whole)[1]) / 4
    assert len(encode(photo, ImageFormat.PNG, 90)) < len(cv2.imencode(".png", photo)[1]) * 0.98
