"""A server in operation: limits, overload, health, logs, draining, addresses; all with real processes."""

from __future__ import annotations

import itertools
import os
import signal
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
from altered import ONE_AT_A_TIME, altered_server
from conftest import run_export
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer
from shells import open_shell, refused
from waiting import eventually

PHOTO = images.encode(images.scene())
SERVICE = "mattebox.v1.BackgroundRemovalService"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_limits(strict_server: LocalServer, kind: str) -> None:
    client = open_shell(kind, strict_server.address, retries=0)
    limits = client.models().limits
    assert limits == mattebox.Limits(2 * 2**20 + 64 * 1024, 2**20, 1_000_000)
    noise = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), np.uint8)
    refused(client, images.encode(noise), "encoded")  # 1.8 MB
    refused(client, mattebox.RawPhoto(noise.tobytes(), 1000, 600), "raw.data")
    refused(client, images.encode(np.zeros((1001, 1000, 3), np.uint8)), "encoded")
    with pytest.raises(mattebox.MessageTooLarge):
        client.remove_background(bytes(limits.max_message_bytes + 1))
    half = images.encode(np.zeros((600, 1000, 3), np.uint8))
    with pytest.raises(mattebox.InvalidRequest, match="bytes of memory are needed"):  # for both
        client.remove_background(half, background=mattebox.Background.image(half))
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
    with (
        altered_server([colour_model], ["--max-queue", "0"], ONE_AT_A_TIME) as server,
        mattebox.Client(server.address) as client,
    ):

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
        LocalServer(
            [colour_model], ["--log-level", "debug", "--grace-seconds", "0.05", "--drain-seconds", "0"]
        ) as server,
        mattebox.Client(server.address) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = [pool.submit(client.remove_background, photo) for _ in range(4)]
        wait_for(server, event="request started")
        assert server.stop() == 0
        assert all(isinstance(answer.exception(timeout=60), mattebox.MatteboxError) for answer in answers)
    assert any(event["event"] == "the grace period is over" and event["running"] > 0 for event in server.events)
    assert not any("Traceback" in str(event) for event in server.events)


def test_a_second_signal_ends_at_once(colour_model: Path) -> None:
    photo = images.encode(images.textured(4000, 3000), "JPEG")
    with (
        LocalServer([colour_model], ["--log-level", "debug"]) as server,
        mattebox.Client(server.address) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = [pool.submit(client.remove_background, photo, matte="grabcut") for _ in range(4)]
        wait_for(server, event="request started")
        os.kill(server.pid, signal.SIGTERM)
        wait_for(server, event="draining")
        assert server.stop() == 128 + signal.SIGTERM  # it sends another
        assert any(isinstance(answer.exception(timeout=60), mattebox.Unavailable) for answer in answers)
    assert not any(event["event"] == "stopped" for event in server.events)


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
    for path, says in ((text, "not a whole ONNX file"), (folder / "colour-core.onnx", "mattebox-export custom")):
        with pytest.raises(StartupError, match=says):
            LocalServer([path]).__enter__()


def resident_mib(server: LocalServer) -> float:
    """Memory of the server's process."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_of_large_photos_is_given_back(colour_model: Path) -> None:
    """After many photos of many sizes the server takes little more than before the first, once it is at rest."""
    sizes = [(96, 64), (1500, 2000), (3000, 2000), (640, 480), (2000, 2000), (1200, 900)]
    files = [images.encode(images.scene(*size), "JPEG") for size in sizes]

    def burst(client: mattebox.Client, count: int) -> None:
        with ThreadPoolExecutor(4) as callers:
            list(callers.map(client.remove_background, itertools.islice(itertools.cycle(files), count)))

    with LocalServer([colour_model], ["--provider", "cpu"]) as server, mattebox.Client(server.address) as client:
        before = resident_mib(server)
        burst(client, 60)
        eventually(lambda: resident_mib(server) <= before + 50)  # one photo of 6 megapixels, once, is 18 MiB


def test_variables_that_are_no_settings_are_warned_of(colour_model: Path) -> None:
    """A Kubernetes service called mattebox makes such variables in every pod of its namespace."""
    strange = {"MATTEBOX_PORT": "tcp://10.0.0.1:50051", "MATTEBOX_MAX_QUEU": "3"}
    with LocalServer([colour_model], ["--provider", "cpu"], {**os.environ, **strange}) as server:
        warned = {event["variable"]: event["did_you_mean"] for event in server.events if "variable" in event}
    assert warned == {"MATTEBOX_PORT": None, "MATTEBOX_MAX_QUEU": "MATTEBOX_MAX_QUEUE"}
