"""Mattes, backgrounds, crops, colour profiles and what must not leak, through the real server and both clients."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

import images
import mattebox
import profiles
from shells import Shell, pixels, refused

Output = mattebox.Output
RAW = Output(format="raw")


def disc(size: int = 240, radius: int = 60, seed: int = 0) -> images.Bytes:
    """A red disc with grain on a grainy grey; uint8 (size, size, 3) RGB."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size)) - size // 2
    inside = (rows**2 + columns**2 <= radius**2)[..., np.newaxis]
    grain = rng.integers(-6, 7, (size, size, 3))
    return np.where(inside, np.array((220, 20, 20)) + grain, 128 + grain).astype(np.uint8)


DISC = images.encode(disc())


def test_guided_is_the_default(client: Shell) -> None:
    default = pixels(client.remove_background(DISC, output=RAW))
    assert (default == pixels(client.remove_background(DISC, matte="guided", output=RAW))).all()
    assert (default != pixels(client.remove_background(DISC, matte="gaussian", output=RAW))).any()


@pytest.mark.parametrize("method", ["guided", "grabcut"])
def test_edges_follow_the_photo(client: Shell, method: Any) -> None:
    """The network sees 64 px, the photo has 240: a blurred mask is pixels off where these aren't."""
    truth = (disc().astype(int)[..., 0] - disc()[..., 1]) > 100

    def wrong(name: Any) -> int:
        alpha = pixels(client.remove_background(DISC, matte=name, output=Output(format="raw", alpha_only=True)))
        return int(np.abs(alpha / 255 - truth).sum())

    assert wrong(method) < 0.5 * wrong("gaussian")


def test_edge_colors(client: Shell) -> None:
    """A soft edge between red and grey, on green: with the old grey left in it, the edge is a halo."""
    soft = images.decode(images.encode(Image.fromarray(disc()).resize((60, 60)).resize((240, 240))))
    photo = images.encode(soft)
    kept = pixels(
        client.remove_background(photo, background="black", matte=mattebox.Matte(keep_edge_colors=True), output=RAW)
    )
    estimated = pixels(client.remove_background(photo, background="black", output=RAW))
    alpha = pixels(client.remove_background(photo, output=Output(format="raw", alpha_only=True)))
    band = (alpha > 40) & (alpha < 215)
    assert band.any()
    blue = [float((composite[..., 2][band] / (alpha[band] / 255)).mean()) for composite in (kept, estimated)]
    assert blue[1] - 20 < 0.5 * (blue[0] - 20)  # the subject has 20


def test_crop(client: Shell) -> None:
    photo = images.scene(96, 64)
    whole = client.remove_background(images.encode(photo), matte="none", keep="green", output=RAW)
    for margin, box in ((0, (48, 16, 24, 16)), (5, (43, 11, 34, 26)), (30, (18, 0, 78, 62)), (10_000, (0, 0, 96, 64))):
        output = Output(format="raw", crop=margin, include_alpha=True)
        result = client.remove_background(images.encode(photo), matte="none", keep="green", output=output)
        x, y, width, height = box
        assert (result.width, result.height) == (width, height)
        assert (pixels(result) == pixels(whole)[y : y + height, x : x + width]).all()
        assert result.alpha is not None
        assert images.decode(result.alpha).shape == (height, width)
        assert result.subjects[0].box == mattebox.BoundingBox(48 - x, 16 - y, 24, 16)


def test_crop_of_nothing_is_the_whole_frame(client: Shell) -> None:
    grey = images.encode(np.full((30, 50, 3), 128, np.uint8))
    result = client.remove_background(grey, output=Output(crop=0))
    assert (result.width, result.height, result.subjects) == (50, 30, ())


def test_crop_and_backgrounds(client: Shell) -> None:
    """A picture covers what comes back; a blur is that of the whole photo."""
    half = np.zeros((10, 10, 3), np.uint8)
    half[:, 5:] = 255
    background = mattebox.Background.image(images.encode(half))
    cropped = pixels(client.remove_background(DISC, background=background, output=Output(format="raw", crop=20)))
    assert (cropped[:5, :20] == 0).all()
    assert (cropped[:5, -20:] == 255).all()
    blur = mattebox.Background.blur(8)
    whole = client.remove_background(DISC, background=blur, output=RAW)
    part = client.remove_background(DISC, background=blur, output=Output(format="raw", crop=20))
    alpha = pixels(client.remove_background(DISC, output=Output(format="raw", alpha_only=True)))
    top, left = (int(axis.min()) - 20 for axis in np.nonzero(alpha >= 0.05 * 255))
    same = pixels(whole)[top : top + part.height, left : left + part.width]
    assert np.abs(same.astype(int) - pixels(part)).max() <= 1


def test_margin_out_of_range(client: Shell) -> None:
    with pytest.raises(ValueError, match="crop"):
        client.remove_background(DISC, output=Output(crop=10_001))


def test_blur_does_not_smear_the_subject(client: Shell) -> None:
    for sigma in (None, 2, 30, 200):
        composite = pixels(
            client.remove_background(DISC, background=mattebox.Background.blur(sigma), output=RAW)
        ).astype(int)
        rows, columns = np.indices((240, 240)) - 120
        outside = rows**2 + columns**2 > 70**2
        assert np.abs(composite[outside] - 128).max() < 12
        assert np.abs(composite[120, 120] - (220, 20, 20)).max() < 12


def test_no_removed_pixel_survives(client: Shell) -> None:
    """A cutout holds zeros where nothing is left, in every format that isn't lossy."""
    rng = np.random.default_rng(0)
    photo = disc()
    grey = photo[..., 0] < 180
    photo[grey] = np.repeat(rng.integers(100, 160, (int(grey.sum()), 1), np.uint8), 3, axis=1)
    for matte in ("guided", "grabcut", "gaussian", "none"):
        for kind in ("png", "raw"):
            output = Output(format=kind)
            result = client.remove_background(
                images.encode(photo), matte=matte, background="transparent", output=output
            )
            rgba = pixels(result) if kind == "raw" else images.decode(result.image)
            assert (rgba[..., 3] == 0).mean() > 0.5
            assert not rgba[rgba[..., 3] == 0].any()


def test_cutout_as_jpeg_and_alpha(client: Shell) -> None:
    """Colours without transparency beside the matte: put together again they are the cutout, and nothing else."""
    output = Output(format="jpeg", quality=95, include_alpha=True)
    result = client.remove_background(DISC, background="transparent", output=output)
    assert result.format == "jpeg"
    assert result.alpha is not None
    colors, alpha = images.decode(result.image).astype(float), images.decode(result.alpha)
    assert np.abs(colors - (220, 20, 20)).max() < 40  # the subject's colour goes on where the grey was
    cutout = images.decode(client.remove_background(DISC, background="transparent").image)
    assert (cutout[..., 3] == alpha).all()
    weight = alpha[..., np.newaxis] / 255
    assert np.abs(colors * weight - cutout[..., :3] * weight).mean() < 2
    refused(client, DISC, "output.format", background="transparent", output=Output(format="jpeg"))


def test_own_transparency_bounds_every_matte(client: Shell) -> None:
    rng = np.random.default_rng(1)
    own = rng.integers(0, 256, (240, 240), np.uint8)
    photo = images.encode(np.dstack([disc(), own]))
    for matte in ("guided", "grabcut", "gaussian", "none"):
        options: Any = {"matte": matte, "output": Output(format="raw", alpha_only=True)}
        alpha = pixels(client.remove_background(photo, **options))
        opaque = pixels(client.remove_background(DISC, **options))
        assert (alpha == np.minimum(opaque, own)).all()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_colour_profiles_are_kept(client: Shell, kind: Any) -> None:
    profile = profiles.rgb()
    photo = images.encode(disc(), icc_profile=profile)
    result = client.remove_background(
        photo, background="#00ff00", output=Output(format=kind, quality=None if kind == "png" else 95)
    )
    answer = Image.open(io.BytesIO(result.image))
    assert answer.info["icc_profile"] == profile
    corner = np.asarray(answer.convert("RGB"))[:10, :10].reshape(-1, 3).mean(axis=0)
    expected = profiles.p3_from_srgb((0, 255, 0))  # the caller's green, in the photo's numbers
    assert np.abs(corner - expected).max() < 4


def test_a_background_picture_keeps_its_look(client: Shell) -> None:
    picture = np.full((20, 20, 3), (30, 200, 60), np.uint8)
    wide = mattebox.Background.image(
        images.encode(
            np.round(profiles.p3_from_srgb(picture[0, 0])).astype(np.uint8) + 0 * picture, icc_profile=profiles.rgb()
        )
    )
    corner = pixels(client.remove_background(DISC, background=wide, output=RAW))[:5, :5]
    assert np.abs(corner.astype(int) - (30, 200, 60)).max() <= 2


@pytest.mark.parametrize("broken", [b"", b"\0" * 200, b"not a profile" * 40, profiles.rgb()[:-7], profiles.grey(2.2)])
def test_a_broken_profile_is_passed_over(client: Shell, broken: bytes) -> None:
    result = client.remove_background(images.encode(disc(), icc_profile=broken), output=Output(format="png"))
    assert "icc_profile" not in Image.open(io.BytesIO(result.image)).info
    assert (images.decode(result.image) == images.decode(client.remove_background(DISC).image)).all()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_nothing_but_the_profile_is_passed_on(client: Shell, kind: Any) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "Secret camera", "2026:01:01 10:00:00"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 11.0)})
    photo = images.encode(disc(), "JPEG", quality=95, exif=exif.tobytes(), comment=b"secret comment")
    assert b"Secret camera" in photo
    result = client.remove_background(photo, output=Output(format=kind))
    for secret in (b"Secret", b"secret", b"Exif", b"eXIf", b"2026:01"):
        assert secret not in result.image


def test_small_answers_of_large_jpegs(client: Shell) -> None:
    """Decoding at a reduced scale changes next to nothing."""
    large = np.asarray(Image.fromarray(disc(400, 120)).resize((1600, 1600), Image.Resampling.BICUBIC))
    for size in (100, 190, 777):
        output = Output(format="raw", size=size)
        whole = pixels(client.remove_background(images.encode(large), output=output)).astype(int)
        reduced = pixels(client.remove_background(images.encode(large, "JPEG", quality=98), output=output))
        assert reduced.shape == whole.shape == (size, size, 3)
        assert np.abs(reduced - whole).mean() < 4


MEMORY = """
import sys
from pathlib import Path
import numpy as np, cv2
from mattebox_server.imaging import codec
from mattebox_server.admission.budget import Budget
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.engine.inference import Inference
from mattebox_server.request import *
from mattebox_server.spec import ModelSpec
from mattebox_server.records import Timeline
from mattebox_server.removal.stages import Found, finish, prepare

model, method, kind, height = sys.argv[1], MatteMethod(sys.argv[2]), ImageFormat(sys.argv[3]), int(sys.argv[4])
background = {"white": ColorBackground(), "none": TransparentBackground(), "blur": BlurBackground(2)}[sys.argv[5]]
import onnx
spec = ModelSpec.from_metadata({entry.key: entry.value for entry in onnx.load(model).metadata_props})
width = height * 4 // 3
rows, columns = np.ogrid[:height, :width]
inside = ((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 4) ** 2)[..., None]
grain = np.random.default_rng(0).integers(0, 9, (height, width, 3), np.uint8)
photo = np.where(inside, np.uint8(200), np.uint8(90)) + grain
file = codec.encode(photo, ImageFormat.JPEG, 90)
small = cv2.resize(photo, (80, 60))
found = Inference(np.where(small[..., 0] > 150, 255, 0).astype(np.uint8), None, 1, 0, 0)
del photo, inside, grain
request = RemovalRequest(EncodedPhoto(file), matte=MatteOptions(method), background=background,
    output=OutputOptions(kind))

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if name in line) * 1024

Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
with Budget(2**40).share() as share:
    prepared = prepare(request, spec, PhotoLimits(10**9, 10**9), share, Timeline())
done = finish(request, prepared, Found(spec, frozenset((0,)), found), Timeline())
print((memory("VmHWM") - before - len(done.image)) / (width * height) - 3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "kind", "background"),
    [
        ("guided", "jpeg", "white"),
        ("guided", "png", "none"),
        ("guided", "webp", "white"),
        ("guided", "png", "blur"),
        ("grabcut", "jpeg", "white"),
        ("gaussian", "raw", "none"),
    ],
)
def test_memory_of_a_large_photo(brightness_model: Any, method: str, kind: str, background: str) -> None:
    """At most 12 bytes a pixel beside photo and answer. Not of a WebP cutout: libwebp alone takes 26 for it."""
    command = [sys.executable, "-c", MEMORY, str(brightness_model), method, kind, "3000", background]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 12
