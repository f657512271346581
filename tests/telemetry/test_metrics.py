"""The Prometheus endpoint of real servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

import images
import mattebox
from altered import ONE_AT_A_TIME, altered_server
from fakes import FakeSession
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.engine.batcher import Batcher
from mattebox_server.engine.network import Network, NetworkLimits
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer
from mattebox_server.telemetry import metrics

PHOTO = images.encode(images.scene())
LARGE = images.encode(images.textured(3000, 2000), "JPEG")
FLAGS = ["--provider", "cpu", "--metrics-address", "127.0.0.1:0"]
STAGES = ("receive", "wait", "decode", "preprocess", "queue", "infer", "matte", "encode", "send")
SIZES = [("grpc.max_receive_message_length", -1)]
NAMELESS = frozenset({("model", ""), ("provider", ""), ("precision", "")})

Key = tuple[str, frozenset[tuple[str, str]]]


class Scrape:
    """One look at a server's metrics.

    Attributes:
        names: of the metrics that have help and type.
        samples: by name and labels.
    """

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        families = list(text_string_to_metric_families(text))
        self.names = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
        self.samples: dict[Key, float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def get(self, name: str, /, **labels: str) -> float:
        """The sample with just these labels; 0 if there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0)

    def values(self, name: str, label: str) -> set[str]:
        """All that a label says."""
        return {dict(labels)[label] for found, labels in self.samples if found == name}


def endpoint(server: LocalServer) -> str:
    address: str = next(event["address"] for event in server.events if event["event"] == "metrics")
    return address


def scrape_when(address: str, condition: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape that fulfils the condition: a request is counted just after its answer is out."""
    deadline_s = time.monotonic() + 30
    while not condition(seen := Scrape(address)):
        assert time.monotonic() < deadline_s, seen.samples
        time.sleep(0.02)
    return seen


@pytest.fixture(scope="module")
def metered(colour_model: Path, brightness_model: Path) -> Generator[LocalServer]:
    with LocalServer([colour_model, brightness_model], FLAGS) as server:
        yield server


def ended(seen: Scrape) -> Counter[str]:
    """Requests by method and status."""
    found: Counter[str] = Counter()
    for (name, pairs), value in seen.samples.items():
        if name == "mattebox_requests_total":
            labels = dict(pairs)
            found[f"{labels['method']} {labels['status']}"] = int(value)
    return found


def test_all_metrics_are_there_and_move(metered: LocalServer) -> None:
    before = Scrape(endpoint(metered))
    assert {name for name in before.names if name.startswith("mattebox_")} - created(before) == {
        *metrics.COUNTERS_AND_GAUGES,
        *metrics.HISTOGRAMS,
    }
    with mattebox.Client(metered.address) as client:
        client.models()
        for model in ("", "colour", "brightness"):
            client.remove_background(PHOTO, model=model)
        with pytest.raises(mattebox.InvalidRequest):
            client.remove_background(b"no photo")
        with pytest.raises(mattebox.UnknownModel):
            client.remove_background(PHOTO, model="x\n" * 1000)
    now = scrape_when(endpoint(metered), lambda seen: sum((ended(seen) - ended(before)).values()) == 6)
    assert ended(now) - ended(before) == {
        "ListModels OK": 1,
        "RemoveBackground OK": 3,
        "RemoveBackground INVALID_ARGUMENT": 1,
        "RemoveBackground NOT_FOUND": 1,
    }

    def change(name: str, /, **labels: str) -> float:
        return now.get(name, **labels) - before.get(name, **labels)

    assert change("mattebox_request_seconds_count", method="RemoveBackground") == 5
    assert now.values("mattebox_stage_seconds_count", "model") == {"", "colour", "brightness"}  # no caller's invention
    for stage in STAGES:
        assert change("mattebox_stage_seconds_count", stage=stage, model="brightness") == 1
    assert change("mattebox_stage_seconds_count", stage="matte", model="colour") == 2
    assert change("mattebox_batch_size_bucket", model="brightness", le="1.0") == 1
    assert change("mattebox_batch_size_count", model="colour") == 2
    assert 0 < change("mattebox_engine_seconds_sum", model="brightness", provider="cpu") < 30


def created(seen: Scrape) -> set[str]:
    """When each counter began, which the library adds."""
    return {name for name in seen.names if name.endswith("_created")}


def test_what_stands_still(metered: LocalServer) -> None:
    seen = Scrape(endpoint(metered))
    for model in ("colour", "brightness"):
        assert seen.get("mattebox_model_serving", model=model, provider="cpu", precision="fp32") == 1
        for name in (
            "mattebox_queue_length",
            "mattebox_queue_wait_seconds",
            "mattebox_backlog_seconds",
            "mattebox_active_requests",
        ):
            assert (name, frozenset({("model", model)})) in seen.samples
        for phase in ("compile", "check", "warm up"):
            assert seen.get("mattebox_startup_seconds", phase=phase, model=model) > 0
    assert seen.get("process_resident_memory_bytes") > 1e6
    assert seen.get("process_open_fds") > 3
    assert {"queue_full", "deadline", "unauthenticated"} <= seen.values("mattebox_rejected_total", "reason")


def test_answers_that_nobody_takes_are_in_flight_until_the_caller_goes(metered: LocalServer) -> None:
    request = pb.RemoveBackgroundRequest(encoded=LARGE, output=pb.Output(format=pb.IMAGE_FORMAT_RAW))
    with grpc.insecure_channel(metered.address, SIZES) as channel:
        stub: Any = channel  # as a stream, of which nothing is read: the answer of 18 MB stays with the server
        call = stub.unary_stream("/mattebox.v1.BackgroundRemovalService/RemoveBackground")(
            request.SerializeToString(), timeout=120
        )
        scrape_when(endpoint(metered), lambda seen: seen.get("mattebox_in_flight_bytes") > 18e6)
        call.cancel()
    gone = {"method": "RemoveBackground"}
    scrape_when(
        endpoint(metered),
        lambda seen: seen.get("mattebox_in_flight_bytes") == 0 and seen.get("mattebox_cancelled_total", **gone) == 1,
    )


def test_queue_and_rejections(colour_model: Path) -> None:
    flags = [*FLAGS, "--max-queue", "2"]
    with (
        altered_server([colour_model], flags, ONE_AT_A_TIME) as server,
        grpc.insecure_channel(server.address, SIZES) as channel,
    ):
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        request = pb.RemoveBackgroundRequest(encoded=LARGE)
        stub.RemoveBackground(request, timeout=60)  # measures what a request takes

        def call(_: int) -> bool:
            try:
                stub.RemoveBackground(request, timeout=60)
            except grpc.RpcError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            answered = [pool.submit(call, n) for n in range(24)]
            scrape_when(
                endpoint(server),
                lambda seen: (
                    seen.get("mattebox_queue_length", model="colour") == 2
                    and seen.get("mattebox_active_requests", model="colour") == 1
                    and seen.get("mattebox_queue_wait_seconds", model="colour") > 0
                    and seen.get("mattebox_in_flight_bytes") > 20 * 6e6
                    and seen.get("mattebox_backlog_seconds", model="colour") > 0
                ),
            )
            refused = [each.result() for each in answered].count(False)
        assert refused > 0
        seen = scrape_when(
            endpoint(server), lambda seen: seen.get("mattebox_rejected_total", reason="queue_full") == refused
        )
        assert (
            seen.get("mattebox_requests_total", method="RemoveBackground", status="RESOURCE_EXHAUSTED", caller="")
            == refused
        )
        assert seen.get("mattebox_request_seconds_count", method="RemoveBackground") == 25 - refused


def test_callers_by_the_names_of_their_tokens(colour_model: Path, tmp_path: Path) -> None:
    token = "0123456789abcdef"
    (tmp_path / "tokens").write_text(f"shop:{token}\n")
    (tmp_path / "tokens").chmod(0o600)
    with (
        LocalServer([colour_model], [*FLAGS, "--token-file", str(tmp_path / "tokens")]) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        stub.ListModels(pb.ListModelsRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=30)
        for guess in ("0" * 16, "1" * 16):
            with pytest.raises(grpc.RpcError):
                stub.ListModels(pb.ListModelsRequest(), metadata=(("authorization", f"Bearer {guess}"),), timeout=30)
        seen = scrape_when(
            endpoint(server), lambda seen: seen.get("mattebox_rejected_total", reason="unauthenticated") == 2
        )
    assert seen.get("mattebox_requests_total", method="ListModels", status="OK", caller="shop") == 1
    assert seen.get("mattebox_requests_total", method="ListModels", status="UNAUTHENTICATED", caller="") == 2
    assert seen.values("mattebox_requests_total", "caller") == {"", "shop"}


def test_a_server_that_loads_says_so(tmp_path: Path) -> None:
    """By a model that takes for ever to be read."""
    os.mkfifo(tmp_path / "model.onnx")
    flags = ["--model", str(tmp_path / "model.onnx"), "--address", "127.0.0.1:0", "--log-format", "json", *FLAGS]
    command = [sys.executable, "-m", "mattebox_server", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found: dict[str, str] = {}
        while "metrics" not in found:
            event = json.loads(process.stderr.readline())
            found[event["event"]] = event["address"]
        seen = Scrape(found["metrics"])
        assert seen.samples["mattebox_model_serving", NAMELESS] == 0
        assert seen.values("mattebox_model_serving", "model") == {""}
        assert seen.get("mattebox_in_flight_bytes") == 0
        with grpc.insecure_channel(found["listening"]) as channel, pytest.raises(grpc.RpcError, match="starting"):
            pb_grpc.BackgroundRemovalServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=30)
        scrape_when(found["metrics"], lambda seen: seen.get("mattebox_rejected_total", reason="starting") == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_slow_scraper_keeps_nobody_out(metered: LocalServer) -> None:
    host, _, port = endpoint(metered).rpartition(":")
    Scrape(endpoint(metered))
    threads = psutil.Process(metered.pid).num_threads()
    dribblers = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        for each in dribblers:
            try:
                each.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
            except OSError:  # displaced already
                continue
        assert Scrape(endpoint(metered)).values("mattebox_model_serving", "model") == {"colour", "brightness"}
        assert psutil.Process(metered.pid).num_threads() <= threads + 9
        with mattebox.Client(metered.address) as client:
            assert client.remove_background(PHOTO).width == 96
    finally:
        for each in dribblers:
            each.close()
    assert [event for event in metered.events if event.get("level") == "error"] == []


def test_some_metrics_by_name_and_nothing_but_scrapes(metered: LocalServer) -> None:
    url = f"http://{endpoint(metered)}/metrics"
    with urllib.request.urlopen(f"{url}?name[]=mattebox_in_flight_bytes", timeout=30) as answer:
        assert {each.name for each in text_string_to_metric_families(answer.read().decode())} == {
            "mattebox_in_flight_bytes"
        }
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(url, b"data", timeout=30)


def test_off_unless_asked_for(server: LocalServer) -> None:
    assert not any(event["event"] == "metrics" for event in server.events)


def test_an_address_in_use_stops_the_start(metered: LocalServer, colour_model: Path) -> None:
    for address in (endpoint(metered), "no-such-host.invalid:0"):
        with pytest.raises(StartupError, match=f"metrics_address: can't serve metrics on {address}"):
            LocalServer([colour_model], ["--metrics-address", address]).__enter__()


def test_runs_are_counted_once_whatever_their_batch() -> None:
    class Observer(EngineObserver):
        def __init__(self) -> None:
            self.runs: list[tuple[str, str, int]] = []

        def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
            assert seconds >= 0
            self.runs.append((model, provider, photos))

    session, observer = FakeSession(), Observer()
    session.gate.clear()
    network = Network([session], NetworkLimits(4), observer)

    def failing(*_: object) -> None:
        raise NotImplementedError

    batcher = Batcher(1, failing)
    image = images.scene(4, 3)
    futures = [batcher.submit(network, image, frozenset({1}), None) for _ in range(5)]
    session.gate.set()
    assert [future.result(10).batch_size for future in futures] == [1, 4, 4, 4, 4]
    batcher.close()
    assert observer.runs == [("fake", "cpu", 1), ("fake", "cpu", 4)]
