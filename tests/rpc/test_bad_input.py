"""Bad and odd input through a real server: the right status and details, or a right answer; and the server lives on."""

import io
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import images
import mattebox
from mattebox_server.local import LocalServer
from shells import Shell, pixels, refused

ALPHA = mattebox.Output(format="raw", alpha_only=True)
RAW = mattebox.Output(format="raw")


@pytest.fixture(autouse=True)
def _still_answers(client: Shell) -> Generator[None]:
    """Whatever a test sends, the same server answers a good request afterwards."""
    yield
    result = client.remove_background(images.encode(images.scene()), output=RAW)
    assert [subject.label for subject in result.subjects] == ["red", "green"]


PHOTO = images.encode(images.scene())


@pytest.mark.parametrize(
    ("photo", "says"),
    [
        (b"", "is empty"),
        (b"Dear server, here is my photo.\n" * 20, "is not an image"),
        (b"\xff\xd8\xff\xe0", "is not an image"),
        (images.encode(images.textured(200, 150), "JPEG")[:-900], "broken, truncated or unsupported JPEG"),
        (images.encode(images.textured(200, 150), "PNG")[:-900], "broken, truncated or unsupported PNG"),
        (images.encode(images.textured(200, 150), "WEBP")[:-900], "sound header"),
        (images.encode(images.textured(200, 150), "TIFF")[:9000], "TIFF"),
        (images.encode(images.textured(200, 150), "GIF")[:900], "broken, truncated or unsupported GIF"),
        (images.encode(images.textured(200, 150), "AVIF")[:900], "sound header"),
        (images.png_header(300, 200), "broken, truncated or unsupported PNG"),
    ],
    ids=["empty", "text", "stub", "jpeg", "png", "webp", "tiff", "gif", "avif", "no-pixels"],
)
def test_undecodable(client: Shell, photo: bytes, says: str) -> None:
    assert says in str(refused(client, photo, "encoded"))


@pytest.mark.parametrize("size", [(60000, 60000), (9000, 9000), (2**31 - 1, 2**31 - 1), (64_000_001, 1)])
def test_size_is_refused_from_the_header(client: Shell, server: LocalServer, size: tuple[int, int]) -> None:
    before = peak_bytes(server.pid)
    assert "limit" in str(refused(client, images.png_header(*size), "encoded"))
    assert peak_bytes(server.pid) - before < 20_000_000


@pytest.mark.parametrize("length", [2**32 - 1, 2**31 - 1, 2**28])
def test_a_chunk_that_lies_about_its_length_takes_no_memory(client: Shell, server: LocalServer, length: int) -> None:
    before = peak_bytes(server.pid)
    assert "broken" in str(refused(client, images.png_header(300, 200, length), "encoded"))
    assert peak_bytes(server.pid) - before < 20_000_000


def peak_bytes(pid: int) -> int:
    """The most memory that the process has ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})],
    ids=["gif", "tiff", "webp", "apng"],
)
def test_first_of_several_frames(client: Shell, image_format: str, options: dict[str, bool]) -> None:
    red, blue = (Image.new("RGB", (48, 32), colour) for colour in ((220, 0, 0), (0, 0, 220)))
    file = images.encode(red, image_format, save_all=True, append_images=[blue], **options)
    result = client.remove_background(file)
    assert [subject.label for subject in result.subjects] == ["red"]


def test_cmyk(client: Shell) -> None:
    cmyk = Image.fromarray(images.scene()).convert("CMYK")
    result = client.remove_background(images.encode(cmyk, "JPEG", quality=95), output=RAW)
    assert {subject.label for subject in result.subjects} == {"red", "green"}
    assert np.abs(pixels(result)[20, 8].astype(int) - (220, 20, 20)).max() < 12


def test_sixteen_bits(client: Shell) -> None:
    deep = np.full((40, 60), 45000, np.uint16)
    file = images.encode(Image.fromarray(deep))
    result = client.remove_background(file, model="brightness", matte="none", output=RAW)
    assert result.subjects[0].coverage == 1
    assert np.abs(pixels(result).astype(int) - 45000 // 257).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB", "RGBA"])
def test_transparency_of_the_photo_bounds_the_matte(client: Shell, mode: str) -> None:
    """Grey, palette and true colour PNG, by alpha channel and by transparent colour."""
    photo = np.full((64, 64, 3), 200, np.uint8)
    photo[:, :32] = 250  # the left half is transparent
    if mode in ("LA", "RGBA"):
        image = Image.fromarray(photo).convert(mode)
        image.putalpha(Image.fromarray(np.where(photo[..., 0] == 250, 0, 255).astype(np.uint8)))
        file = images.encode(image)
    else:
        image = Image.fromarray(photo).quantize(4) if mode == "P" else Image.fromarray(photo).convert(mode)
        clear = image.getpixel((0, 0))
        file = images.encode(image, transparency=clear)
    assert Image.open(io.BytesIO(file)).has_transparency_data
    alpha = pixels(client.remove_background(file, model="brightness", matte="none", output=ALPHA))
    assert (alpha[:, :32] == 0).all()
    assert (alpha[:, 32:] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (4000, 40), (40, 4000), (1, 700), (3, 2)])
@pytest.mark.parametrize("model", ["colour", "brightness"])
def test_extreme_shapes(client: Shell, size: tuple[int, int], model: str) -> None:
    photo = np.full((size[1], size[0], 3), (230, 10, 10) if model == "colour" else (6, 1, 1), np.uint8)
    result = client.remove_background(images.encode(photo), model=model, output=RAW)
    assert (result.width, result.height) == size
    expected = photo if model == "colour" else np.full_like(photo, 255)  # it is nearly black
    assert np.abs(pixels(result).astype(int) - expected).max() <= 1


def test_raw_data_that_does_not_fit(client: Shell) -> None:
    data = images.scene().tobytes()
    refused(client, mattebox.RawPhoto(data[:-1], 96, 64), "raw.data")
    refused(client, mattebox.RawPhoto(data, 96, 64, "rgba"), "raw.data")
    refused(client, mattebox.RawPhoto(b"", 96, 64), "raw.data")
    assert "limit" in str(refused(client, mattebox.RawPhoto(bytes(33 * 2**20), 33 * 2**20, 1, "gray"), "raw.data"))
    refused(client, mattebox.RawPhoto(b"", 2**31, 2**31), "raw.data")


def test_unknown_model(client: Shell) -> None:
    for name in ("nope", "x" * 100_000, "\n\0"):
        with pytest.raises(mattebox.UnknownModel) as caught:
            client.remove_background(PHOTO, model=name)
        assert caught.value.code == "NOT_FOUND"
        assert "colour, brightness" in str(caught.value)


def test_unknown_labels(client: Shell) -> None:
    error = refused(client, PHOTO, "keep[0]", "keep[2]", keep=["person", "red", "x" * 9000])
    assert "background, red, green, blue" in error.violations[0].description
    refused(client, PHOTO, "keep[0]", model="brightness", keep="red")


def test_many_violations_still_fit_into_the_trailer(client: Shell) -> None:
    with pytest.raises(mattebox.InvalidRequest) as caught:
        client.remove_background(PHOTO, keep=["☃" * 500] * 256)
    assert 5 < len(caught.value.violations) < 256
    assert "257 labels" in str(refused(client, PHOTO, "keep", keep=["red"] * 257))


def test_contradictions(client: Shell) -> None:
    output = mattebox.Output
    refused(client, PHOTO, "output.format", background="transparent", output=output(format="jpeg"))
    refused(client, PHOTO, "output.quality", output=output(quality=50))
    refused(client, PHOTO, "output.include_alpha", output=output(include_alpha=True, alpha_only=True))
    refused(client, PHOTO, "background", background="red", output=output(alpha_only=True))
    refused(client, PHOTO, "matte.blur_kernel_px", matte=mattebox.Matte("none", blur_kernel=7))


def test_out_of_range(client: Shell) -> None:
    for kernel in (8, 2):
        error = refused(client, PHOTO, "matte.blur_kernel_px", matte=mattebox.Matte("gaussian", blur_kernel=kernel))
        assert "odd" in str(error)
    refused(client, PHOTO, "background.color.red", background=mattebox.Background.color(256, 0, 0))
    fields = ("background.color.green", "background.color.blue")
    refused(client, PHOTO, *fields, background=mattebox.Background.color(0, 2**32 - 1, 999))


def test_every_mistake_at_once(client: Shell) -> None:
    refused(
        client,
        mattebox.RawPhoto(b"123", 1, 2),
        "raw.data",
        "matte.blur_kernel_px",
        "background.color.red",
        "output.quality",
        matte=mattebox.Matte("grabcut", blur_kernel=9),
        background=mattebox.Background.color(300, 0, 0),
        output=mattebox.Output(quality=9),
    )


def test_blur_out_of_range(client: Shell) -> None:
    for sigma in (-1.0, 200.5, float("nan"), float("inf"), -float("inf")):
        refused(client, PHOTO, "background.blur.sigma_px", background=mattebox.Background.blur(sigma))


def test_edge_colors_that_nobody_estimates(client: Shell) -> None:
    for method in ("gaussian", "none"):
        refused(client, PHOTO, "matte.keep_edge_colors", matte=mattebox.Matte(method, keep_edge_colors=True))
    matte, output = mattebox.Matte("guided", keep_edge_colors=True), mattebox.Output(alpha_only=True)
    refused(client, PHOTO, "matte.keep_edge_colors", matte=matte, output=output)


def test_bad_background_picture(client: Shell) -> None:
    refused(client, PHOTO, "background.image", background=mattebox.Background.image(b""))
    refused(client, PHOTO, "background.image", background=mattebox.Background.image(b"no picture"))
    refused(client, PHOTO, "background.image", background=mattebox.Background.image(images.png_header(60000, 60000)))


def test_format_that_can_not_hold_the_size(client: Shell) -> None:
    wide = images.encode(np.full((4, 17000, 3), 90, np.uint8))
    refused(client, wide, "output.format", output=mattebox.Output(format="webp"))
    assert client.remove_background(wide, output=mattebox.Output(format="jpeg")).width == 17000
    line = mattebox.RawPhoto(bytes(1_500_000), 1_500_000, 1, "gray")
    refused(client, line, "output.format")
    refused(client, line, "output.include_alpha", output=mattebox.Output(format="raw", include_alpha=True))
    assert client.remove_background(line, output=RAW).width == 1_500_000


def test_deadlines(client: Shell) -> None:
    assert client.remove_background(PHOTO, timeout=None).width == 96
    for timeout in (0, -1, 1e-9):
        with pytest.raises(mattebox.DeadlineExceeded) as caught:
            client.remove_background(PHOTO, timeout=timeout)
        assert caught.value.code == "DEADLINE_EXCEEDED"
