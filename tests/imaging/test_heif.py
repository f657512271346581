"""HEIC photos: the files of tests/imaging/heic hold one picture of 64x48 pixels, each in another way.

An encoder that Mattebox doesn't install wrote them (pillow-heif 1.8.1, quality 95). `turned.heic` is `plain.heic` with
a property `irot`, by which phones turn their photos; it was added by hand.
"""

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mattebox
from altered import altered_server
from images import Bytes
from mattebox_server.errors import BadPhoto, PhotoTooLarge
from mattebox_server.imaging import headers, heif
from mattebox_server.imaging.codec import decode
from mattebox_server.imaging.headers import PhotoLimits

FOLDER = Path(__file__).parent / "heic"
LIMITS = PhotoLimits(10**6, 10**6)


@pytest.fixture(autouse=True)
def _enabled() -> Generator[None]:
    assert heif.enable()
    yield
    Image.OPEN.pop("HEIF", None)


def picture() -> Bytes:
    """The picture before it was encoded, uint8 (48, 64, 3) RGB."""
    y, x = np.mgrid[0:48, 0:64]
    rgb = np.stack([x * 4, y * 5, np.full_like(x, 60)], -1).astype(np.uint8)
    rgb[8:20, 8:30] = (230, 30, 20)
    return rgb


def read(data: bytes) -> tuple[Bytes, Bytes | None, bytes | None]:
    photo = decode(data, headers.probe(data, LIMITS, "photo"), "photo")
    return photo.bgr[..., ::-1], photo.alpha, photo.profile


@pytest.mark.parametrize("name", ["plain", "deep", "profile", "alpha", "turned"])
def test_pixels(name: str) -> None:
    """8 and 10 bits a channel, with and without alpha, upright and turned: the picture, up to the coding's losses."""
    rgb, alpha, profile = read((FOLDER / f"{name}.heic").read_bytes())
    expected = np.rot90(picture()) if name == "turned" else picture()
    assert rgb.shape == expected.shape
    apart = np.abs(rgb.astype(int) - expected)
    assert (apart.mean(), np.median(apart)) < (6, 3)  # colours have half the resolution
    assert (profile is not None) == (name == "profile")
    if name == "alpha":
        assert alpha is not None
        assert (alpha[:, :30] < 20).all()
        assert (alpha[:, 34:] > 235).all()
    else:
        assert alpha is None


def test_limits_count_before_anything_is_decoded() -> None:
    data = (FOLDER / "plain.heic").read_bytes()
    with pytest.raises(PhotoTooLarge, match="64x48 pixels"):
        headers.probe(data, PhotoLimits(10**6, 64 * 48 - 1), "photo")


@given(st.integers(0, 1194), st.integers(0, 255), st.integers(0, 1195))
def test_damaged_files_are_bad_photos(at: int, value: int, length: int) -> None:
    data = bytearray((FOLDER / "plain.heic").read_bytes()[:length])
    data[at : at + 1] = bytes([value]) if at < length else b""
    try:
        rgb, _, _ = read(bytes(data))
    except (BadPhoto, PhotoTooLarge):
        return
    assert rgb.dtype == np.uint8


def test_without_the_decoder_the_format_is_named() -> None:
    Image.OPEN.pop("HEIF")
    with pytest.raises(BadPhoto) as caught:
        read((FOLDER / "plain.heic").read_bytes())
    (violation,) = caught.value.violations
    assert violation.description.startswith("is a HEIC file, which this server doesn't read")
    with pytest.raises(BadPhoto) as caught:
        read(b"nothing")
    assert "HEIF" not in caught.value.violations[0].description


def test_no_package_no_decoder() -> None:
    code = "import sys; sys.modules['pi_heif'] = None; from mattebox_server.imaging import heif; print(heif.enable())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_server_takes_it(colour_model: Path) -> None:
    with (
        altered_server([colour_model], ["--provider", "cpu"]) as server,
        mattebox.Client(server.address) as client,
    ):
        result = client.remove_background(FOLDER / "turned.heic", background="transparent")
    assert (result.width, result.height) == (48, 64)
