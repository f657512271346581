"""What the contract promises, through the real server and both clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import images
import mattebox
from shells import Shell, pixels

SCENE = images.scene()
PHOTO = images.encode(SCENE)
Output = mattebox.Output


def raw(client: Shell, photo: mattebox.PhotoSource = PHOTO, **options: Any) -> images.Bytes:
    """RAW pixels of a call with the hard mask, so that values are exact."""
    output = options.pop("output", Output(format="raw"))
    return pixels(client.remove_background(photo, matte="none", output=output, **options))


def test_kept_pixels_are_the_photo_and_the_rest_is_background(client: Shell) -> None:
    composite = raw(client, background="#0000ff")
    assert (composite[:, :32] == SCENE[:, :32]).all()
    assert (composite[16:32, 48:72] == SCENE[16:32, 48:72]).all()
    assert (composite[40:, 40:] == (0, 0, 255)).all()
    assert (raw(client)[40:, 40:] == 255).all()  # white is the default


def test_keep(client: Shell) -> None:
    only_green = raw(client, keep="green", background="black")
    assert (only_green[:, :32] == 0).all()
    assert (only_green[16:32, 48:72] == SCENE[16:32, 48:72]).all()
    inverted = raw(client, keep=["background"], background="black")
    assert (inverted[:, :32] == 0).all()
    assert (inverted[40:, 40:] == 128).all()


def test_subjects(client: Shell) -> None:
    red, green = client.remove_background(PHOTO).subjects
    assert (red.label, red.class_index, red.box) == ("red", 1, mattebox.BoundingBox(0, 0, 32, 64))
    assert red.coverage == pytest.approx(1 / 3)
    assert (green.label, green.class_index, green.box) == ("green", 2, mattebox.BoundingBox(48, 16, 24, 16))
    assert green.coverage == pytest.approx(24 * 16 / (96 * 64))
    assert [subject.label for subject in client.remove_background(PHOTO, keep="green").subjects] == ["green"]


def test_boxes_are_in_output_pixels(client: Shell) -> None:
    large = images.encode(np.repeat(np.repeat(SCENE, 5, 0), 5, 1))
    green = client.remove_background(large, keep="green", output=Output(size=48)).subjects[0]
    assert green.box == mattebox.BoundingBox(24, 8, 12, 8)


def test_nothing_found_is_an_answer(client: Shell) -> None:
    grey = images.encode(np.full((30, 50, 3), 128, np.uint8))
    result = client.remove_background(grey, background="transparent")
    assert result.subjects == ()
    assert not images.decode(result.image).any()


def test_sizes(client: Shell) -> None:
    photo = images.encode(images.textured(300, 200))

    def size(wanted: Any) -> tuple[int, int]:
        result = client.remove_background(photo, output=Output(size=wanted))
        assert images.decode(result.image).shape == (result.height, result.width, 3)
        return result.width, result.height

    assert size("original") == (300, 200)
    assert size("model") == (96, 64)
    assert size(150) == (150, 100)
    assert size(5000) == (300, 200)
    assert size(1) == (1, 1)
    letterboxed = client.remove_background(photo, model="brightness", output=Output(size="model"))
    assert (letterboxed.width, letterboxed.height) == (80, 53)


def test_formats(client: Shell) -> None:
    photo = images.encode(images.textured(120, 90))
    exact = images.decode(client.remove_background(photo).image)
    cases: list[tuple[Any, bytes, int]] = [("jpeg", b"\xff\xd8\xff", 8), ("webp", b"RIFF", 8), ("png", b"\x89PNG", 0)]
    for image_format, magic, error in cases:
        result = client.remove_background(photo, output=Output(format=image_format))
        assert result.format == image_format
        assert result.pixel_format is None
        assert result.image.startswith(magic)
        assert np.abs(images.decode(result.image).astype(int) - exact).mean() <= error
    bare = client.remove_background(photo, output=Output(format="raw"))
    assert (bare.format, bare.pixel_format) == ("raw", "rgb")
    assert (pixels(bare) == exact).all()


def test_quality(client: Shell) -> None:
    photo = images.encode(images.textured(400, 300))
    formats: list[Any] = ["jpeg", "webp"]
    for image_format in formats:
        low, default, high = (
            len(client.remove_background(photo, output=Output(format=image_format, quality=quality)).image)
            for quality in (20, None, 98)
        )
        assert low < default < high


@pytest.mark.parametrize("image_format", ["png", "webp", "raw"])
def test_transparent_hides_nothing(client: Shell, image_format: Any) -> None:
    output = Output(format=image_format)
    result = client.remove_background(PHOTO, background="transparent", matte="none", output=output)
    cutout = pixels(result) if image_format == "raw" else images.decode(result.image)
    assert cutout.shape == (64, 96, 4)
    assert (cutout[:, :32, 3] == 255).all()
    gone = cutout[..., 3] == 0
    assert gone[40:, 40:].all()
    if image_format != "webp":  # lossy: the zeros that went in come out as almost zero
        assert not cutout[gone].any()


def test_picture_background_covers_the_output(client: Shell) -> None:
    """A wide picture behind a 96x64 photo: scaled to the height, its centre shows."""
    picture = np.zeros((32, 144, 3), np.uint8)
    picture[:, :48], picture[:, 48:96], picture[:, 96:] = (9, 9, 9), (40, 50, 60), (200, 200, 200)
    composite = raw(client, background=mattebox.Background.image(images.encode(picture)))
    assert (composite[:, :32] == SCENE[:, :32]).all()
    assert (composite[40:, 40:90] == (40, 50, 60)).all()
    turned = images.encode(np.ascontiguousarray(np.rot90(picture, 1)), "PNG", exif=images.exif_orientation(6))
    assert (raw(client, background=mattebox.Background.image(turned)) == composite).all()
    clear = images.encode(np.zeros((10, 10, 4), np.uint8))
    assert (raw(client, background=mattebox.Background.image(clear))[40:, 40:] == 255).all()


def test_include_alpha_and_alpha_only(client: Shell) -> None:
    both = client.remove_background(PHOTO, output=Output(format="jpeg", include_alpha=True))
    assert both.alpha is not None
    alpha = images.decode(both.alpha)
    assert alpha.shape == (64, 96)
    only = client.remove_background(PHOTO, output=Output(alpha_only=True))
    assert only.alpha is None
    assert (images.decode(only.image) == alpha).all()
    assert (alpha[:, :26] == 255).all()
    assert (alpha[40:, 60:] == 0).all()
    assert client.remove_background(PHOTO).alpha is None


def test_blur_kernel(client: Shell) -> None:
    def soft(matte: Any) -> int:
        result = client.remove_background(PHOTO, matte=matte, output=Output(format="raw", alpha_only=True))
        alpha = pixels(result)
        return int(((alpha > 0) & (alpha < 255)).sum())

    assert soft("none") == 0
    assert soft(mattebox.Matte("gaussian", blur_kernel=1)) == 0
    assert 0 < soft(mattebox.Matte("gaussian", blur_kernel=3)) < soft("gaussian")
    assert soft("gaussian") == soft(mattebox.Matte("gaussian", blur_kernel=7))
    assert soft("gaussian") < soft(mattebox.Matte("gaussian", blur_kernel=31))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(client: Shell, image_format: str, orientation: int) -> None:
    """A viewer that applies EXIF sees the scene; so must the network, and the answer must say nothing of it."""
    undo = {1: 0, 2: "fliplr", 3: 2, 4: "flipud", 5: "transpose", 6: 1, 7: "transverse", 8: 3}[orientation]
    stored = {
        "fliplr": np.fliplr(SCENE),
        "flipud": np.flipud(SCENE),
        "transpose": SCENE.transpose(1, 0, 2),
        "transverse": np.rot90(SCENE.transpose(1, 0, 2), 2),
    }.get(str(undo), np.rot90(SCENE, undo if isinstance(undo, int) else 0))
    lossless: dict[str, Any] = {"lossless": True} if image_format == "WEBP" else {"quality": 95}
    options = lossless if image_format in ("WEBP", "JPEG", "AVIF") else {}
    file = images.encode(
        np.ascontiguousarray(stored), image_format, exif=images.exif_orientation(orientation), **options
    )
    result = client.remove_background(file)
    assert (result.width, result.height) == (96, 64)
    assert [subject.label for subject in result.subjects] == ["red", "green"]
    assert result.subjects[0].box.x == 0
    assert result.subjects[0].box.height == 64
    assert abs(result.subjects[1].box.y - 16) <= 2
    assert b"Exif" not in result.image
    assert b"eXIf" not in result.image


@pytest.mark.parametrize("pixel_format", ["rgb", "bgr", "rgba", "bgra", "gray"])
def test_raw_photos(client: Shell, pixel_format: Any) -> None:
    order = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "rgba": [0, 1, 2, 3], "bgra": [2, 1, 0, 3], "gray": [0]}[pixel_format]
    alpha = np.full((64, 96, 1), 255, np.uint8)
    alpha[:, :8] = 100
    data = np.concatenate([SCENE, alpha], 2)[..., order].tobytes()
    photo = mattebox.RawPhoto(data, 96, 64, pixel_format)
    labels = [subject.label for subject in client.remove_background(photo).subjects]
    assert labels == ([] if pixel_format == "gray" else ["red", "green"])
    matte = raw(client, photo, output=Output(format="raw", alpha_only=True))
    assert set(np.unique(matte[:, :8])) == {{"rgba": 100, "bgra": 100, "gray": 0}.get(pixel_format, 255)}


def test_execution_and_timings(client: Shell) -> None:
    result = client.remove_background(PHOTO, model="brightness")
    model = client.models().models[1]
    assert result.execution == mattebox.Execution("brightness", model.weights_sha256, "cpu", "fp32", 1, False)
    times = result.timings
    stages = (times.decode, times.preprocess, times.queue, times.infer, times.matte, times.encode)
    assert all(stage.total_seconds() >= 0 for stage in stages)
    assert times.infer.total_seconds() > 0
    assert sum(stage.total_seconds() for stage in stages) <= times.total.total_seconds() + 1e-4


def test_models(client: Shell) -> None:
    found = client.models()
    colour, brightness = found.models
    assert found.default == "colour"
    assert (colour.kind, colour.labels) == ("semantic", ("background", "red", "green", "blue"))
    assert (brightness.kind, brightness.labels) == ("saliency", ("subject",))
    assert colour.input == mattebox.ResizePolicy("short_side", short_side=64, max_long_side=256)
    assert brightness.input == mattebox.ResizePolicy("letterbox", 80, 80)
    assert (colour.provider, colour.precision, colour.untrained, colour.licence) == ("cpu", "fp32", False, "Apache-2.0")
    assert len(colour.weights_sha256) == 64
