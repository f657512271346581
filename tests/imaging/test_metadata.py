"""Tests of metadata: answers keep the colour profile, or the pixels are converted; nothing else is passed on."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

import exif
import images
import profiles
from mattebox_server.errors import BadPhoto
from mattebox_server.imaging.codec import Photo, decode, encode
from mattebox_server.imaging.headers import PhotoLimits, probe
from mattebox_server.request import ImageFormat

LIMITS = PhotoLimits(max_bytes=40_000_000, max_pixels=1_000_000)
P3 = profiles.rgb()
ENCODED = [ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP]


def read(file: bytes) -> Photo:
    return decode(file, probe(file, LIMITS, "photo"), "photo")


def picture(mode: str) -> Image.Image:
    image = Image.fromarray(images.textured(50, 37)).convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(100)
    return image


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [
        *((image_format, "RGB") for image_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
        *((image_format, "RGBA") for image_format in ("PNG", "WEBP", "TIFF", "AVIF")),
        ("PNG", "P"),
        ("TIFF", "P"),
    ],
)
def test_an_rgb_profile_stays_and_the_numbers_with_it(image_format: str, mode: str) -> None:
    photo = read(images.encode(picture(mode), image_format, icc_profile=P3))
    plain = read(images.encode(picture(mode), image_format))
    assert photo.profile == P3
    assert plain.profile is None
    assert (photo.bgr == plain.bgr).all()


@pytest.mark.parametrize("image_format", ENCODED)
@pytest.mark.parametrize("size", [480, 70_000, 2**20])
def test_answers_carry_the_profile(image_format: ImageFormat, size: int) -> None:
    profile = struct.pack(">I", size) + P3[4:] + bytes(size - len(P3))
    pixels = images.textured(50, 37)
    file = encode(pixels, image_format, 90, profile)
    assert Image.open(io.BytesIO(file)).info["icc_profile"] == profile
    again = read(file)
    assert again.profile == profile
    assert (again.bgr == read(encode(pixels, image_format, 90)).bgr).all()


@pytest.mark.parametrize("image_format", ENCODED)
def test_a_matte_carries_none(image_format: ImageFormat) -> None:
    grey = images.textured(50, 37)[..., 0]
    assert encode(grey, image_format, 90, P3) == encode(grey, image_format, 90)


def test_raw_carries_none() -> None:
    pixels = images.textured(50, 37)
    assert encode(pixels, ImageFormat.RAW, 90, P3) == pixels[..., ::-1].tobytes()


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_inks_become_srgb(image_format: str) -> None:
    inks = 255 * np.array(list(np.ndindex(2, 2, 2, 2)), np.uint8).reshape(1, 16, 4)
    fields = np.kron(inks, np.ones((16, 16, 1), np.uint8))
    image = Image.frombytes("CMYK", (256, 16), fields.tobytes())
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
    photo = read(images.encode(image, image_format, icc_profile=profiles.printer(), **options))
    expected = profiles.srgb_from_lab(profiles.inks()).reshape(16, 3)
    assert photo.profile is None
    assert np.abs(photo.bgr[8, 8::16, ::-1] - expected).max() < 4
    without = read(images.encode(image, image_format, **options))
    assert np.abs(without.bgr[8, 8::16, ::-1] - expected).max() > 60


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [("PNG", "L"), ("PNG", "LA"), ("JPEG", "L"), ("TIFF", "L"), ("AVIF", "L"), ("PNG", "I;16"), ("TIFF", "I;16")],
)
def test_greys_become_srgb(image_format: str, mode: str) -> None:
    ramp = np.arange(256, dtype=np.uint8)[np.newaxis].repeat(16, 0)
    image = Image.fromarray(ramp.astype(np.uint16) * 256 if mode == "I;16" else ramp)
    if mode == "LA":
        image.putalpha(Image.fromarray(255 - ramp))
    options = {"JPEG": {"quality": 100}, "AVIF": {"quality": 100}}.get(image_format, {})
    photo = read(images.encode(image, image_format, icc_profile=profiles.grey(1.75), **options))
    expected = profiles.srgb_from_light((np.arange(256) / 255) ** 1.75)
    assert photo.profile is None
    assert np.abs(photo.bgr[8] - expected[:, np.newaxis]).max() < 5
    assert (photo.alpha is None) == (mode != "LA")
    if photo.alpha is not None:
        assert (photo.alpha == 255 - ramp).all()


def test_lab_becomes_srgb() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # pyright: ignore
    lab = np.array([[(50, 0, 0), (80, 20, -10), (30, -10, 25)]])
    stored = np.rint(lab * (2.55, 1, 1)).astype(np.int16).astype(np.uint8)  # a and b in two's complement
    file = images.encode(Image.frombytes("LAB", (3, 1), stored.tobytes()), "TIFF", icc_profile=profile)
    photo = read(file)
    expected = profiles.srgb_from_lab(lab.astype(float))
    assert photo.profile is None
    assert np.abs(photo.bgr[..., ::-1] - expected).max() < 4


def test_a_profile_without_a_way_back_is_used_up() -> None:
    corners = 255 * np.array(list(np.ndindex(2, 2, 2)), np.uint8).reshape(1, 8, 3)
    photo = read(images.encode(corners, icc_profile=profiles.scanner()))
    assert photo.profile is None
    assert np.abs(photo.bgr[0, 1].astype(int) - corners[0, 1, ::-1]).max() > 20
    assert (photo.bgr[0, [0, 7]] == [[0], [255]]).all()


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", profiles.printer()),
        ("RGB", profiles.grey(1.0)),
        ("RGB", P3[:-8]),
        ("RGB", b"not a profile"),
        ("RGBA", profiles.printer()),
        ("L", P3),
        ("L", profiles.printer()),
        ("1", profiles.grey(1.0)),
        ("CMYK", P3),
        ("CMYK", profiles.printer()[:-8]),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_that_does_not_fit_is_passed_over(image_format: str, mode: str, profile: bytes) -> None:
    modes = {"JPEG": "RGB L CMYK", "PNG": "RGB RGBA L 1", "WEBP": "RGB RGBA", "AVIF": "RGB RGBA L"}
    if mode not in modes.get(image_format, mode).split():
        pytest.skip(f"there is no {mode} {image_format}")
    photo = read(images.encode(picture(mode), image_format, icc_profile=profile))
    assert photo.profile is None
    assert (photo.bgr == read(images.encode(picture(mode), image_format)).bgr).all()


@pytest.mark.parametrize(
    ("numbers", "kept"),
    [
        ([(1, 2), (2, 2)], True),
        ([(2, 2), (1, 2)], True),
        ([(1, 2)], False),
        ([(2, 2)], False),
        ([(1, 2), (1, 2)], False),
        ([(1, 3), (2, 3)], False),
        ([(1, 0), (2, 0)], False),
        ([(0, 2), (255, 2)], True),
        ([(1, 2), (2, 2), (3, 2)], False),
    ],
)
def test_profiles_in_several_pieces(numbers: list[tuple[int, int]], kept: bool) -> None:
    halves = dict(zip(sorted({number for number, _ in numbers}), (P3[:240], P3[240:]), strict=False))
    segments = b"".join(segment(number, count, halves.get(number, b"")) for number, count in numbers)
    plain = images.encode(picture("RGB"), "JPEG")
    assert read(plain[:2] + segments + plain[2:]).profile == (P3 if kept else None)


def segment(number: int, count: int, part: bytes) -> bytes:
    return b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes((number, count)) + part


@pytest.mark.parametrize("size", [2**20, 2**27])
def test_a_profile_that_unpacks_to_far_more_takes_no_memory(size: int) -> None:
    packer = zlib.compressobj()
    packed = (
        b"".join(packer.compress(bytes(2**20)) for _ in range(size // 2**20)) + packer.compress(b"\0") + packer.flush()
    )
    plain = images.encode(picture("RGB"))
    tracemalloc.start()
    try:
        with pytest.raises(BadPhoto):
            read(plain[:33] + images.png_chunk(b"iCCP", b"bomb\0\0" + packed) + plain[33:])
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_profile_of_many_full_pieces_is_passed_over() -> None:
    plain = images.encode(picture("RGB"), "JPEG")
    pieces = b"".join(segment(number, 255, bytes(65_519)) for number in range(1, 256))
    assert read(plain[:2] + pieces + plain[2:]).profile is None


SECRET = b"S3CR3T"
EXIF = exif.block(
    (exif.ORIENTATION, exif.SHORT, 1, struct.pack("<H", 6)),
    (0x010E, exif.ASCII, 14, SECRET + b" title\0\0"),
    (0x0132, exif.ASCII, 20, b"2024:05:06 07:08:09\0"),
    (0x8825, exif.LONG, 1, struct.pack("<I", 26)),
    (0x9286, 7, 20, SECRET + bytes(14)),
    following=8,
)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6">' + SECRET + b"</a></x:xmpmeta>"
IPTC = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x0b\x1c\x02\x78\0\x06" + SECRET + b"\0"


def telling(kind: str) -> bytes:
    """Makes a photo with all the metadata that its format can hold."""
    image_format, _, mode = kind.partition("-")
    image = picture(mode or "RGB")
    whole = b"Exif\0\0" + EXIF
    if image_format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", SECRET.decode())
        text.add_text("Comment", SECRET.decode() * 9, zip=True)
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        text.add(b"tIME", struct.pack(">HBBBBB", 2024, 5, 6, 7, 8, 9))
        file = images.encode(image, "PNG", pnginfo=text, exif=whole, icc_profile=P3, dpi=(300, 300))
        end = file.index(b"IEND") - 4
        return file[:end] + images.png_chunk(b"tEXt", b"Late\0" + SECRET) + file[end:] + SECRET
    if image_format == "JPEG":
        file = images.encode(image, "JPEG", exif=whole, xmp=XMP, comment=SECRET, icc_profile=P3, dpi=(300, 300))
        return file[:2] + b"\xff\xed" + struct.pack(">H", len(IPTC) + 2) + IPTC + file[2:] + SECRET
    if image_format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[270], tags[305], tags[315], tags[274] = SECRET.decode(), SECRET.decode(), SECRET.decode(), 6
        tags[700], tags[33723] = XMP, IPTC
        return images.encode(image, "TIFF", tiffinfo=tags, icc_profile=P3, dpi=(300, 300))
    if image_format == "GIF":
        return images.encode(image, "GIF", comment=SECRET)
    return images.encode(image, image_format, exif=whole, xmp=XMP, icc_profile=P3)


@pytest.mark.parametrize(
    "kind", ["PNG", "PNG-RGBA", "JPEG", "WEBP", "WEBP-RGBA", "TIFF", "TIFF-RGBA", "AVIF", "AVIF-RGBA", "GIF"]
)
@pytest.mark.parametrize("image_format", ENCODED)
def test_nothing_else_gets_through(kind: str, image_format: ImageFormat) -> None:
    told = telling(kind)
    assert SECRET in told
    photo = read(told)
    if kind != "GIF":
        assert photo.bgr.shape[:2] == (50, 37)  # turned
    transparent = photo.alpha is not None and image_format is not ImageFormat.JPEG
    pixels = np.dstack([photo.bgr, photo.alpha]) if photo.alpha is not None and transparent else photo.bgr
    for answer in (encode(pixels, image_format, 90, photo.profile), encode(photo.bgr[..., 0], image_format, 90)):
        assert SECRET not in answer
        assert b"Exif" not in answer
        assert b"2024" not in answer
        assert parts(answer) <= {
            *("IHDR", "iCCP", "IDAT", "IEND"),
            *("APP0", "APP2", "DQT", "SOF", "DHT", "SOS"),
            *("VP8X", "ICCP", "ALPH", "VP8 ", "VP8L"),
        }
        image = Image.open(io.BytesIO(answer))
        assert not image.getexif()
        assert not {"exif", "xmp", "XML:com.adobe.xmp", "comment", "photoshop", "dpi"} & set(image.info)


def parts(file: bytes) -> set[str]:
    """Returns the kinds of chunks or segments in a file."""
    found: set[str] = set()
    if file.startswith(b"\x89PNG"):
        position = 8
        while position < len(file):
            found.add(file[position + 4 : position + 8].decode())
            position += 12 + int.from_bytes(file[position : position + 4], "big")
    elif file.startswith(b"RIFF"):
        position = 12
        while position < len(file):
            found.add(file[position : position + 4].decode())
            size = int.from_bytes(file[position + 4 : position + 8], "little")
            position += 8 + size + size % 2
    else:
        position, marker = 2, 0
        while marker != 0xDA:
            marker = file[position + 1]
            names = {0xDB: "DQT", 0xC0: "SOF", 0xC4: "DHT", 0xDA: "SOS"}
            found.add(names.get(marker, f"APP{marker - 0xE0}"))
            position += 2 + int.from_bytes(file[position + 2 : position + 4], "big")
        assert file.index(b"\xff\xd9", position) == len(file) - 2
    return found
