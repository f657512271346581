"""Tests of colour profiles: against arithmetic by hand, in files that Pillow reads, and of broken profiles."""

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import images
import profiles
from mattebox_server.imaging import colors
from mattebox_server.imaging.codec import encode
from mattebox_server.request import ImageFormat

P3 = profiles.rgb()
ROUNDED_TWICE = 3  # a step in one space can be more in another


def off(found: images.Bytes, expected: profiles.Floats) -> float:
    """Returns the largest difference of BGR pixels from RGB numbers."""
    return float(np.abs(found[..., ::-1] - expected).max())


def padded(profile: bytes, size: int) -> bytes:
    """Returns a profile that is as sound, but longer."""
    return struct.pack(">I", size) + profile[4:].ljust(size - 4, b"\0")


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (300, 400)])
def test_from_srgb_is_the_product_of_the_matrices(size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = colors.convert(rgb[..., ::-1], None, P3)
    assert found.shape == rgb.shape
    assert found.dtype == np.uint8
    assert off(found, profiles.p3_from_srgb(rgb)) < 2.5  # the last steps of the curve, in the dark
    assert np.abs(found[..., ::-1] - profiles.p3_from_srgb(rgb)).mean() < 0.3


@pytest.mark.parametrize("grey", [0, 255])
def test_white_and_black_stay(grey: int) -> None:
    assert (colors.convert(np.full((1, 1, 3), grey, np.uint8), None, P3) == grey).all()


def test_a_colour_of_one_space_in_another_is_the_same_colour() -> None:
    srgb = 80 + images.textured(90, 70)[..., ::-1] // 2
    wide = colors.convert(srgb, None, P3)
    assert np.abs(wide.astype(int) - srgb).max() > 10
    assert np.abs(colors.convert(wide, P3, None).astype(int) - srgb).max() <= ROUNDED_TWICE
    third = profiles.rgb(profiles.SRGB)  # sRGB's colours, with another curve
    assert (
        np.abs(colors.convert(wide, P3, third).astype(int) - colors.convert(srgb, None, third)).max() <= ROUNDED_TWICE
    )


def test_colours_beyond_the_target_go_to_its_rim() -> None:
    red = np.array([[(0, 0, 255)]], np.uint8)
    assert colors.convert(red, P3, None).tolist() == [[[0, 0, 255]]]


@pytest.mark.parametrize("profile", [None, P3])
def test_nothing_to_do_costs_nothing(profile: bytes | None) -> None:
    pixels = images.textured(20, 10)
    assert colors.convert(pixels, profile, profile) is pixels
    assert colors.convert(pixels, None, None) is pixels


def test_profiles_of_all_models_are_sound() -> None:
    assert colors.is_sound(P3, "RGB")
    assert colors.is_sound(profiles.printer(), "CMYK")
    assert colors.is_sound(profiles.grey(2.2), "L")
    assert colors.is_sound(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "LAB")  # pyright: ignore


@pytest.mark.parametrize("mode", ["L", "CMYK", "LAB"])
def test_a_profile_of_another_model_is_unsound(mode: str) -> None:
    assert not colors.is_sound(P3, mode)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"acsp",
        P3[:-4],
        P3 + b"\0",
        P3[:36] + b"acsq" + P3[40:],
        P3[:12] + b"link" + P3[16:],
        P3[:12] + b"nmcl" + P3[16:],
        P3[:128] + bytes(len(P3) - 128),
        P3.replace(b"rTRC", b"xTRC"),
        P3.replace(b"rXYZ", b"xXYZ"),
        padded(P3, 4 * 2**20 + 4),
    ],
    ids=["none", "stub", "cut", "longer", "magic", "link", "names", "empty", "no-curve", "no-colour", "huge"],
)
def test_a_broken_profile_is_unsound(broken: bytes) -> None:
    assert not colors.is_sound(broken, "RGB")


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_what_is_sound_and_keepable_converts(data: st.DataObject) -> None:
    profile = bytearray(data.draw(st.sampled_from([P3, profiles.scanner()])))
    for _ in range(data.draw(st.integers(1, 6))):
        profile[data.draw(st.integers(4, len(profile) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(profile)
    if colors.is_sound(whole, "RGB") and colors.is_keepable(whole):
        for pixels in (np.zeros((1, 1, 3), np.uint8), images.textured(80, 70)):
            assert colors.convert(pixels, None, whole).shape == pixels.shape
            assert colors.convert(pixels, whole, P3).shape == pixels.shape


def test_keepable_is_what_can_be_written() -> None:
    assert colors.is_keepable(P3)
    assert colors.is_sound(profiles.scanner(), "RGB")
    assert not colors.is_keepable(profiles.scanner())
    assert colors.is_keepable(padded(P3, 2**20))
    assert colors.is_sound(padded(P3, 2**20 + 4), "RGB")
    assert not colors.is_keepable(padded(P3, 2**20 + 4))


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_into_srgb(mode: str) -> None:
    if mode == "CMYK":
        profile, expected = profiles.printer(), profiles.srgb_from_lab(profiles.inks()).reshape(1, 16, 3)
        inks = np.array(list(np.ndindex(2, 2, 2, 2)), np.uint8).reshape(1, 16, 4)
        image = Image.frombytes("CMYK", (16, 1), (255 * inks).tobytes())
    elif mode == "L":
        ramp = np.arange(256, dtype=np.uint8).reshape(1, 256)
        profile, image = profiles.grey(1.75), Image.fromarray(ramp)
        expected = np.dstack([profiles.srgb_from_light((ramp / 255) ** 1.75)] * 3)
    else:
        rgb = 80 + images.textured(40, 30) // 2
        profile, image = P3, Image.fromarray(profiles.p3_from_srgb(rgb).round().astype(np.uint8))
        expected = rgb.astype(np.float64)
    found = np.asarray(colors.into_srgb(profile, mode).apply(image))
    assert np.abs(found - expected).max() <= (ROUNDED_TWICE if mode == "RGB" else 2)


@pytest.mark.parametrize("length", [480, 481, 65519, 65520, 70001, 200_000, 2**20])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "WEBP-alpha"])
def test_a_profile_in_a_file_is_read_back(kind: str, length: int) -> None:
    """JPEG needs a segment for each 65519 bytes."""
    profile = np.random.default_rng(length).bytes(length)
    name, _, alpha = kind.partition("-")
    pixels = images.textured(61, 43)
    if alpha:
        pixels = np.dstack([pixels, pixels[..., 0]])
    plain, embedded = (encode(pixels, ImageFormat[name], 80, each) for each in (None, profile))
    image = Image.open(io.BytesIO(embedded))
    assert image.info["icc_profile"] == profile
    assert image.mode == ("RGBA" if alpha else "RGB")
    assert (np.asarray(image) == images.decode(plain)).all()
    both = [cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_UNCHANGED) for each in (plain, embedded)]
    assert both[1] is not None
    assert (np.asarray(both[0]) == np.asarray(both[1])).all()
