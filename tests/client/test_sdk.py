"""Photos, options and messages of the Python clients, and what both clients have in common."""

import asyncio
import inspect
import io
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import images
import mattebox
from mattebox.messages import build_request
from mattebox.options import RemovalOptions
from mattebox.results import parse_models
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from shells import Shell

PHOTO = images.encode(images.scene())


def build(photo: mattebox.PhotoSource = b"x", **options: Any) -> pb.RemoveBackgroundRequest:
    fields: dict[str, Any] = {
        "model": "",
        "keep": (),
        "matte": None,
        "background": "white",
        "output": mattebox.Output(),
    }
    return build_request(photo, RemovalOptions(**(fields | options)))


def test_sources_of_photos(client: Shell, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PHOTO)
    expected = client.remove_background(PHOTO).image
    for source in (bytearray(PHOTO), memoryview(PHOTO), path, str(path), io.BytesIO(PHOTO)):
        assert client.remove_background(source).image == expected
    with path.open("rb") as file:
        assert client.remove_background(file).image == expected


def test_wrong_sources(client: Shell, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.remove_background(tmp_path / "nowhere.png")
    with pytest.raises(TypeError, match="'rb'"):
        client.remove_background(cast(Any, io.StringIO("text")))
    with pytest.raises(TypeError, match="not int"):
        client.remove_background(cast(Any, 5))


def test_save(client: Shell, tmp_path: Path) -> None:
    result = client.remove_background(PHOTO)
    result.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == result.image
    assert "image=" not in repr(result)
    with pytest.raises(AttributeError):
        result.width = 3  # type: ignore[misc]  # pyright: ignore


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("white", (255, 255, 255)),
        ("black", (0, 0, 0)),
        ("#ff8800", (255, 136, 0)),
        ("#f80", (255, 136, 0)),
        ("#FF8800", (255, 136, 0)),
    ],
)
def test_colours(text: str, expected: tuple[int, int, int]) -> None:
    color = build(background=text).background.color
    assert (color.red, color.green, color.blue) == expected


@pytest.mark.parametrize("text", ["#ff88", "#gggggg", "#", "whiite", "#ff880011"])
def test_wrong_colours(text: str) -> None:
    with pytest.raises(ValueError, match="background"):
        build(background=text)


def test_backgrounds(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PHOTO)
    assert build(background="transparent").background.WhichOneof("kind") == "transparent"
    for picture in (path, str(path), mattebox.Background.image(PHOTO), mattebox.Background.image(io.BytesIO(PHOTO))):
        assert build(background=picture).background.image == PHOTO
    assert build(background=mattebox.Background.blur(3)).background.blur.sigma_px == 3
    with pytest.raises(FileNotFoundError):
        build(background="nowhere.jpg")
    with pytest.raises(ValueError, match=r"color\.red: must be 0 or more"):
        build(background=mattebox.Background.color(-1, 0, 0))


def test_output() -> None:
    message = build(output=mattebox.Output("webp", 80, 640, 12, include_alpha=True)).output
    assert (message.format, message.quality, message.longest_side_px) == (pb.IMAGE_FORMAT_WEBP, 80, 640)
    assert message.HasField("crop")
    assert message.crop.margin_px == 12
    assert message.include_alpha
    plain = build().output
    assert not plain.HasField("crop")
    assert plain.size_mode == pb.SIZE_MODE_ORIGINAL
    assert not build(output=mattebox.Output(alpha_only=True)).HasField("background")


@pytest.mark.parametrize(
    "options",
    [
        {"output": mattebox.Output(format="gif")},  # type: ignore[arg-type]  # pyright: ignore
        {"output": mattebox.Output(quality=0)},
        {"output": mattebox.Output(size=2**32)},
        {"output": mattebox.Output(size="huge")},  # type: ignore[arg-type]  # pyright: ignore
        {"output": mattebox.Output(crop=-1)},
        {"matte": "magic"},
        {"matte": mattebox.Matte("gaussian", blur_kernel=0)},
        {"matte": mattebox.Matte("gaussian", blur_kernel=2**32)},
        {"background": mattebox.Background.color(0, -1, 0)},
        {"background": mattebox.Background.blur(0)},
        {"background": mattebox.Background.blur(1e-60)},
        {"photo": mattebox.RawPhoto(b"", -1, 1)},
        {"photo": mattebox.RawPhoto(b"", 1, 1, "cmyk")},  # type: ignore[arg-type]  # pyright: ignore
    ],
    ids=str,
)
def test_what_a_message_can_not_express_is_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        build(**options)


def test_wrong_types_are_said_to_be_wrong() -> None:
    with pytest.raises(TypeError, match=r"mattebox\.Output"):
        build(output="png")
    with pytest.raises(TypeError, match=r"photo\.data must be bytes"):
        build(mattebox.RawPhoto(cast(Any, 10**12), 512, 512))
    for empty in ({"photo": ""}, {"background": ""}):
        with pytest.raises(ValueError, match=r"empty|must be a colour"):
            build(**cast(Any, empty))


@pytest.mark.parametrize("address", ["", "127.0.0.1", "h:", "h:99999", "h:0", ":5"])
def test_addresses_that_grpc_would_take_for_others(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        mattebox.Client(address)


def test_timeouts_beyond_counting_wait_for_ever(client: Shell) -> None:
    for timeout in (float("inf"), 1e20):
        assert client.remove_background(PHOTO, timeout=timeout).width == 96
        assert client.ready(timeout=timeout)
    with pytest.raises(ValueError, match="not a number"):
        client.models(timeout=float("nan"))


def test_a_label_is_not_its_letters() -> None:
    assert list(build(keep="cat").keep) == ["cat"]
    assert list(build(keep=["cat", "dog"]).keep) == ["cat", "dog"]


def test_matte() -> None:
    assert build().matte.method == pb.MATTE_METHOD_UNSPECIFIED
    assert build(matte="grabcut").matte.method == pb.MATTE_METHOD_GRABCUT
    matte = build(matte=mattebox.Matte("gaussian", 9)).matte
    assert (matte.method, matte.blur_kernel_px) == (pb.MATTE_METHOD_GAUSSIAN, 9)
    assert build(matte=mattebox.Matte(keep_edge_colors=True)).matte.keep_edge_colors


def test_a_model_of_a_newer_server() -> None:
    """It may be of a kind, and resize photos in a way, that this version doesn't know."""
    kind: Any = 99
    listed = parse_models(pb.ListModelsResponse(models=[pb.Model(name="new", kind=kind)]))
    (model,) = listed.models
    assert (model.name, model.kind, model.input) == ("new", "unknown", mattebox.ResizePolicy("unknown"))


def test_both_clients_have_the_same_methods() -> None:
    def face(kind: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(method)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    blocking, waiting = face(mattebox.Client), face(mattebox.AsyncClient)
    # The types of the photos and of the results differ; all other parameters are the same.
    many, many_waiting = blocking.pop("remove_backgrounds"), waiting.pop("remove_backgrounds")
    assert blocking == waiting
    assert list(many.parameters.values())[2:] == list(many_waiting.parameters.values())[2:]
    wanted = inspect.signature(mattebox.Client.__init__).parameters
    assert wanted == inspect.signature(mattebox.AsyncClient.__init__).parameters


def test_context_managers_close(server: LocalServer) -> None:
    address = server.address

    async def scenario() -> None:
        async with mattebox.AsyncClient(address) as client:
            assert await client.ready()
        for call in (client.ready(), client.models(), client.remove_background(PHOTO)):
            with pytest.raises(ValueError, match="closed"):
                await call

    asyncio.run(scenario())
    with mattebox.Client(address) as client:
        assert client.ready()
    with pytest.raises(ValueError, match="closed"):
        client.ready()


def test_closing_a_client_cancels_its_calls_not_its_callers() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
            client = mattebox.AsyncClient(f"127.0.0.1:{silent.getsockname()[1]}")
            closed = asyncio.create_task(client.models())
            cancelled = asyncio.create_task(client.models())
            await asyncio.sleep(0)  # both tasks begin their calls
            cancelled.cancel()
            await asyncio.wait({cancelled})
            assert cancelled.cancelled()
            await client.close()
            with pytest.raises(mattebox.Cancelled):
                await closed

    asyncio.run(scenario())


def test_an_async_client_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        mattebox.AsyncClient()


def test_the_client_imports_nothing_heavy() -> None:
    code = "import sys, mattebox; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "cv2", "PIL", "mattebox_server", "onnxruntime", "typer", "rich", "pydantic"} & set(loaded)
