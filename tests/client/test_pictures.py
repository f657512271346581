"""NumPy arrays and Pillow images as photos and results; neither package is imported unless it is used."""

import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import images
import mattebox
import profiles
from mattebox.photos import read_photo
from shells import Shell, pixels

SCENE = images.scene()
RGB = np.asfortranarray(SCENE)  # its rows don't follow each other in memory
RAW = mattebox.Output(format="raw")


def test_arrays(client: Shell) -> None:
    expected = pixels(client.remove_background(images.encode(SCENE), output=RAW))
    assert np.array_equal(pixels(client.remove_background(RGB, output=RAW)), expected)
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert np.array_equal(pixels(client.remove_background(opaque, output=RAW)), expected)
    grey = client.remove_background(np.ascontiguousarray(RGB[..., 0]), output=RAW)
    assert (grey.width, grey.height) == (96, 64)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_photos(client: Shell, array: images.Bytes) -> None:
    with pytest.raises(mattebox.InvalidRequest, match=r"uint8 \(H, W\)") as caught:
        client.remove_background(array)
    assert str(array.shape) in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "HSV", "F"])
def test_pictures_of_every_mode(client: Shell, mode: str) -> None:
    picture = Image.fromarray(RGB)
    picture = Image.new(mode, picture.size) if mode == "I;16" else picture.convert(mode)
    result = client.remove_background(picture)
    assert (result.width, result.height) == picture.size


def test_a_picture_is_its_file(client: Shell) -> None:
    """A Pillow image gives the same answer as its file: upright, with its profile, and without its other EXIF data."""
    profile = profiles.rgb()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker of cameras"
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG", exif=exif, icc_profile=profile)
    picture = Image.open(io.BytesIO(file.getvalue()))
    from_file, from_picture = (client.remove_background(photo) for photo in (file.getvalue(), picture))
    assert from_picture.image == from_file.image
    assert from_picture.to_pil().info["icc_profile"] == profile
    assert b"maker" not in read_photo(picture)  # type: ignore[operator]  # pyright: ignore


def test_results(client: Shell) -> None:
    scene = images.encode(SCENE)
    formats = {"png": "RGBA", "webp": "RGBA", "raw": "RGBA"}
    for name, mode in formats.items():
        result = client.remove_background(
            scene,
            background="transparent",
            output=mattebox.Output(format=name),  # type: ignore[arg-type]  # pyright: ignore
        )
        assert result.to_pil().mode == mode
        assert result.to_numpy().shape == (64, 96, 4)
    plain = client.remove_background(scene, output=RAW)
    assert np.array_equal(plain.to_numpy(), pixels(plain))
    assert np.array_equal(np.array(plain.to_pil()), pixels(plain))
    assert plain.to_numpy().flags.writeable
    grey = client.remove_background(scene, output=mattebox.Output(format="raw", alpha_only=True))
    assert grey.to_numpy().shape == (64, 96)
    assert np.array_equal(client.remove_background(scene).to_numpy(), plain.to_numpy())


@pytest.mark.parametrize("reading", [mattebox.RemovalResult.to_pil, mattebox.RemovalResult.to_numpy])
def test_pixels_of_an_unknown_layout(client: Shell, reading: Callable[[mattebox.RemovalResult], object]) -> None:
    result = dataclasses.replace(client.remove_background(images.encode(SCENE), output=RAW), pixel_format="unknown")
    with pytest.raises(ValueError, match="newer than this client"):
        reading(result)


def test_neither_is_imported_unasked() -> None:
    code = """
import sys
import mattebox
from mattebox.photos import read_photo
read_photo(b"x")
assert not {"numpy", "PIL"} & sys.modules.keys()
sys.modules["PIL"] = None
from datetime import timedelta as t
e, s = mattebox.Execution("", "", "", "", 1, False), mattebox.Timings(*[t()] * 7)
try:
    mattebox.RemovalResult(b"", "png", 1, 1, None, None, (), e, s, "").to_pil()
except ModuleNotFoundError as error:
    assert "pip install pillow" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
