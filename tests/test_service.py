"""What the contract promises, through the real server and both clients."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import images
import mattebox
import networks
from conftest import run_export
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer
from shells import Shell, open_shell, pixels, refused

SCENE = images.scene()
PHOTO = images.encode(SCENE)
SERVICE = "mattebox.v1.BackgroundRemovalService"
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
    cases: list[tuple[Any, bytes, int]] = [("jpeg", b"\xff\xd8\xff", 40), ("webp", b"RIFF", 60), ("png", b"\x89PNG", 0)]
    for image_format, magic, error in cases:
        result = client.remove_background(photo, output=Output(format=image_format))
        assert result.format == image_format
        assert result.pixel_format is None
        assert result.image.startswith(magic)
        assert np.abs(images.decode(result.image).astype(int) - exact).max() <= error
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
    assert soft("gaussian") == soft(None) == soft(mattebox.Matte(blur_kernel=7)) < soft(mattebox.Matte(blur_kernel=31))


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


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_limits(strict_server: LocalServer, kind: str) -> None:
    client = open_shell(kind, strict_server.address)
    limits = client.models().limits
    assert limits == mattebox.Limits(2 * 2**20 + 64 * 1024, 2**20, 1_000_000)
    noise = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), np.uint8)
    refused(client, images.encode(noise), "encoded")  # 1.8 MB
    refused(client, mattebox.RawPhoto(noise.tobytes(), 1000, 600), "raw.data")
    refused(client, images.encode(np.zeros((1001, 1000, 3), np.uint8)), "encoded")
    with pytest.raises(mattebox.MessageTooLarge):
        client.remove_background(bytes(limits.max_message_bytes + 1))
    half = images.encode(np.zeros((600, 1000, 3), np.uint8))
    with pytest.raises(mattebox.Overloaded) as caught:  # photo and background together are over --max-pixels
        client.remove_background(half, background=mattebox.Background.image(half))
    assert caught.value.retry_after is not None
    assert client.remove_background(half).width == 1000
    client.close()


def test_health_and_reflection(server: LocalServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answer = next(reflection.ServerReflectionInfo(iter([request])))
    listed = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= listed


def test_request_id_and_log_line(server: LocalServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        request = pb.RemoveBackgroundRequest(encoded=PHOTO)
        for sent, kept in (("order-66", True), ("not an id!", False), ("x" * 65, False)):
            _, call = stub.RemoveBackground.with_call(request, metadata=(("x-request-id", sent),), timeout=10)
            returned = dict(call.initial_metadata() or ())["x-request-id"]
            assert (returned == sent) is kept
    wait_for(server, request_id="order-66", event="request")
    line = next(event for event in server.events if event.get("request_id") == "order-66")
    assert (line["status"], line["method"], line["model"]) == ("OK", "RemoveBackground", "colour")


def test_stream_is_announced_but_not_there_yet(server: LocalServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(stub.RemoveBackgroundStream(iter([pb.RemoveBackgroundStreamRequest(id="1")]), timeout=5)))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_refusals_fit_into_the_trailer_in_any_language(folder: Path) -> None:
    core = networks.save_colour_core(folder / "chinese-core.onnx")
    labels = "background," + ",".join(letter * 60 for letter in "\u7ea2\u7eff\u84dd")
    run_export("custom", "--core", core, "--labels", labels, "-o", folder / "chinese.onnx")
    with LocalServer([folder / "chinese.onnx"]) as server, mattebox.Client(server.address) as client:
        with pytest.raises(mattebox.InvalidRequest) as caught:
            client.remove_background(PHOTO, keep=["\u9ec4" * 500] * 200)
        assert caught.value.violations[0].field == "keep[0]"
        with pytest.raises(mattebox.UnknownModel):
            client.remove_background(PHOTO, model="\u9ec4" * 5000)


def test_many_at_once_get_their_own_answers(server: LocalServer) -> None:
    """Sixteen callers, each with a photo whose red share tells it from the others."""

    def call(number: int) -> tuple[int, float]:
        photo = np.full((64, 128, 3), 128, np.uint8)
        photo[:, : 4 * number] = (255, 0, 0)
        with mattebox.Client(server.address) as client:
            return number, client.remove_background(images.encode(photo)).subjects[0].coverage

    with ThreadPoolExecutor(16) as pool:
        for number, coverage in pool.map(call, range(1, 17)):
            assert coverage == pytest.approx(4 * number / 128)


def test_overload_is_refused_with_a_time_to_come_back(colour_model: Path) -> None:
    photo = images.encode(images.textured(3000, 2000), "JPEG")
    with LocalServer([colour_model], ["--max-requests", "1"]) as server, mattebox.Client(server.address) as client:

        def call(_: int) -> str:
            try:
                client.remove_background(photo)
            except mattebox.Overloaded as error:
                assert error.retry_after is not None
                return "refused"
            return "answered"

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(call, range(8)))
        assert set(outcomes) == {"refused", "answered"}
        assert client.remove_background(photo).width == 3000


def wait_for(server: LocalServer, **fields: str) -> None:
    """Until the server's log has an event with these fields."""
    deadline = time.monotonic() + 30
    while not any(fields.items() <= line.items() for line in list(server.events)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_sigterm_lets_running_requests_finish(colour_model: Path) -> None:
    photo = images.encode(images.textured(3000, 2000), "JPEG")
    with (
        LocalServer([colour_model], ["--log-level", "debug"]) as server,
        mattebox.Client(server.address) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        answer = pool.submit(client.remove_background, photo)
        wait_for(server, event="request started")
        stopping = pool.submit(server.stop)
        assert answer.result(timeout=60).width == 3000
        assert stopping.result(timeout=60) == 0
        assert not client.ready(timeout=1)
    order = [event["event"] for event in server.events if event["event"] in ("draining", "request", "stopped")]
    assert order == ["draining", "request", "stopped"]


def test_what_outlasts_the_grace_period_is_cut_off(colour_model: Path) -> None:
    photo = images.encode(images.textured(4000, 3000), "JPEG")
    with (
        LocalServer([colour_model], ["--log-level", "debug", "--grace-seconds", "0.05"]) as server,
        mattebox.Client(server.address) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = [pool.submit(client.remove_background, photo) for _ in range(4)]
        wait_for(server, event="request started")
        assert server.stop() == 0
        assert all(isinstance(answer.exception(timeout=60), mattebox.MatteboxError) for answer in answers)
    assert any(event["event"] == "the grace period is over" and event["running"] > 0 for event in server.events)
    assert not any("Traceback" in str(event) for event in server.events)


def test_a_second_server_on_the_same_port_says_so(server: LocalServer, colour_model: Path) -> None:
    port = server.address.rpartition(":")[2]
    command = [sys.executable, "-m", "mattebox_server", "--model", str(colour_model), "--address", f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_or_socket_in_use_is_not_taken_over(server: LocalServer, colour_model: Path, tmp_path: Path) -> None:
    """`localhost` is two addresses, of which the first server has one; and gRPC would replace a unix socket in use."""
    port = server.address.rpartition(":")[2]
    place = f"unix:{tmp_path}/server.sock"
    with LocalServer([colour_model], ["--address", place]) as first, mattebox.Client(place) as client:
        assert first.address == place
        for address in (f"localhost:{port}", place):
            command = [sys.executable, "-m", "mattebox_server", "--model", str(colour_model), "--address", address]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 1
            assert "in use" in done.stderr
        assert client.remove_background(PHOTO).width == 96


def test_ready_is_false_where_no_server_is() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with mattebox.Client(f"127.0.0.1:{taken.getsockname()[1]}") as client:
            assert not client.ready(timeout=2)
            with pytest.raises((mattebox.Unavailable, mattebox.DeadlineExceeded)):
                client.remove_background(PHOTO, timeout=2)


def test_a_file_that_is_no_model_stops_the_start(folder: Path) -> None:
    text = folder / "text.onnx"
    text.write_text("not a model")
    for path, says in ((text, "no ONNX model"), (folder / "colour-core.onnx", "mattebox-export custom")):
        with pytest.raises(StartupError, match=says):
            LocalServer([path]).__enter__()
