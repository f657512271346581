"""Decoding to less than the size: JPEG alone, by how much, and what comes of it."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

import exif
import images
import profiles
from mattebox_server.errors import InvalidRequest
from mattebox_server.imaging.codec import Photo, decode, reduction_for
from mattebox_server.imaging.headers import PhotoLimits, probe

LIMITS = PhotoLimits(max_bytes=10_000_000, max_pixels=1_000_000)


def whole(file: bytes) -> Photo:
    return decode(file, probe(file, LIMITS, "photo"), "photo")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(400, 304), (397, 299), (17, 9), (1, 33)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_reduced_decoding_is_shrinking(mode: str, size: tuple[int, int], orientation: int) -> None:
    """By means over areas, those at the right and lower rim as if the photo went on."""
    image = Image.fromarray(images.textured(*size)).convert(mode)
    options = {"quality": 92, "progressive": orientation % 2 == 0}
    file = images.encode(image, "JPEG", exif=images.exif_orientation(orientation), **options)
    stored = whole(images.encode(image, "JPEG", **options)).bgr
    header = probe(file, LIMITS, "photo")
    assert (decode(file, header, "photo").bgr == exif.turned(stored, orientation)).all()
    for reduction in (2, 4, 8):
        height, width = (-(-side // reduction) for side in stored.shape[:2])
        rim = (0, height * reduction - stored.shape[0], 0, width * reduction - stored.shape[1])
        even = cv2.copyMakeBorder(stored, *rim, cv2.BORDER_REPLICATE)
        area = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        small = decode(file, header, "photo", reduction).bgr
        assert small.shape[:2] == ((width, height) if orientation > 4 else (height, width))
        assert np.abs(small.astype(int) - exif.turned(area, orientation)).mean() < (1 if min(size) > 100 else 6)


@pytest.mark.parametrize(
    ("asked", "factor"),
    [((400, 300), 1), ((201, 1), 1), ((200, 150), 2), ((200, 151), 1), ((100, 75), 4), ((50, 38), 8), ((1, 1), 8)],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduction_leaves_enough(asked: tuple[int, int], factor: int, orientation: int) -> None:
    stored = np.zeros((299, 400, 3) if orientation == 1 else (400, 299, 3), np.uint8)
    file = images.encode(stored, "JPEG", exif=images.exif_orientation(orientation))
    header = probe(file, LIMITS, "photo")
    assert (header.width_px, header.height_px) == (400, 299)
    assert reduction_for(header, *asked) == (1 if asked == (400, 300) else factor)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_only_jpeg_is_reduced(image_format: str) -> None:
    file = images.encode(images.textured(64, 48), image_format)
    assert reduction_for(probe(file, LIMITS, "photo"), 1, 1) == 1


def test_a_jpeg_that_pillow_decodes_is_not_reduced() -> None:
    image = Image.fromarray(images.textured(64, 48)).convert("CMYK")
    header = probe(images.encode(image, "JPEG", icc_profile=profiles.printer()), LIMITS, "photo")
    assert reduction_for(header, 1, 1) == 1


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_a_cut_jpeg_is_refused_at_every_size(reduction: int) -> None:
    file = images.encode(images.textured(200, 150), "JPEG")
    header = probe(file, LIMITS, "photo")
    with pytest.raises(InvalidRequest):
        decode(file[:-900], header, "photo", reduction)


def test_the_first_photo_of_several_in_a_jpeg_is_reduced_too() -> None:
    first, second = (Image.fromarray(images.textured(64, 48, seed)) for seed in (0, 1))
    file = images.encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    header = probe(file, LIMITS, "photo")
    assert reduction_for(header, 16, 12) == 4
    assert (
        np.abs(
            decode(file, header, "photo").bgr[..., ::-1].astype(int) - np.asarray(Image.open(io.BytesIO(file)))
        ).max()
        <= 2
    )
