"""Model files that are replaced while a server runs, with real files, networks and servers."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

import images
import mattebox
import networks
from conftest import run_export
from mattebox_server.engine import loading, proving
from mattebox_server.engine.artifact import file_state, read_artifact, read_metadata
from mattebox_server.engine.config import EngineConfig, ProviderName
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.loading import ModelFile, ModelFiles, load_engine
from mattebox_server.engine.opening import ArtifactSession
from mattebox_server.engine.plan import Device
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.session import Maps
from mattebox_server.errors import InferenceFailed, NotServing, StartupError
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.local import LocalServer

OPTIONS = EngineConfig(provider="cpu")
PHOTO = images.encode(images.scene())
NEW_LABELS = ("background", "rot", "gruen", "blau")
ENOUGH_S = 60.0


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is named `colour` too, but has other weights, other labels and another input size."""
    folder = tmp_path_factory.mktemp("new")
    core = networks.save_half_size_core(folder / "core.onnx")
    options = ("--name", "colour", "--labels", ",".join(NEW_LABELS), "--resize", "stretch:48x32")
    unnormalised = ("--mean", "0,0,0", "--std", "1,1,1", "--licence", "Apache-2.0")
    run_export("custom", "--core", core, "-o", folder / "colour.onnx", *options, *unnormalised)
    return folder / "colour.onnx"


@pytest.fixture
def model(colour_model: Path, tmp_path: Path) -> Path:
    """A copy of a model file that the test may replace."""
    return Path(shutil.copy(colour_model, tmp_path / "model.onnx"))


def install(new: Path, path: Path) -> None:
    """Replaces a file by renaming, as one should in production."""
    shutil.copy(new, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def damage(model: Path, path: Path) -> Path:
    """Writes a model file whose network computes something else than its spec says."""
    loaded = onnx.load_model_from_string(model.read_bytes())
    for weights in loaded.graph.initializer:
        if list(weights.dims) == [4, 3, 1, 1]:
            weights.raw_data = networks.COLOUR_WEIGHTS[::-1].tobytes()
    path.write_bytes(loaded.SerializeToString())
    return path


def until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + ENOUGH_S
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def count(server: LocalServer, event: str) -> int:
    return sum(line.get("event") == event for line in list(server.events))


def until_counted(server: LocalServer, event: str, times: int) -> None:
    until(lambda: count(server, event) == times)


def digest(model: Path) -> str:
    return read_artifact(model).spec.weights.sha256


# Servers


def test_a_reload_under_load_drops_no_call(colour_model: Path, new_model: Path, model: Path) -> None:
    """Each answer comes from one network as a whole: its labels belong to its weights."""
    labels = {digest(colour_model): set(networks.COLOUR_LABELS), digest(new_model): set(NEW_LABELS)}
    assert len(labels) == 2
    over = threading.Event()

    def call(address: str) -> list[str]:
        digests: list[str] = []
        with mattebox.Client(address) as client:
            while not over.is_set():
                answer = client.remove_background(PHOTO)
                assert {subject.label for subject in answer.subjects} < labels[answer.execution.weights_sha256]
                assert answer.subjects
                digests.append(answer.execution.weights_sha256)
        return digests

    with LocalServer([model], ["--provider", "cpu", "--sessions", "2"]) as server, ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call, server.address) for _ in range(4)]
        try:
            for reloads, version in enumerate((new_model, colour_model, new_model), 1):
                install(version, model)
                os.kill(server.pid, signal.SIGHUP)
                until_counted(server, "model reloaded", reloads)
            with mattebox.Client(server.address) as client:
                (listed,) = client.models().models
        finally:
            over.set()
        assert (listed.weights_sha256, tuple(listed.labels)) == (digest(new_model), NEW_LABELS)
        answers = [digest for caller in callers for digest in caller.result(ENOUGH_S)]
    assert set(answers) == set(labels)
    assert {line["status"] for line in server.events if line["event"] == "request"} == {"OK"}


def test_a_bad_file_is_refused_and_the_old_model_stays(colour_model: Path, new_model: Path, model: Path) -> None:
    noise = model.with_name("noise")
    noise.write_bytes(b"not a model")
    renamed = model.with_name("renamed")
    core = networks.save_colour_core(model.with_name("core.onnx"))
    run_export("custom", "--core", core, "-o", renamed, "--name", "color", "--labels", ",".join(networks.COLOUR_LABELS))
    damaged = damage(colour_model, model.with_name("damaged"))
    reasons = {
        noise: "is not a whole ONNX file",
        renamed: "is named color now, not colour",
        damaged: "computes something else",
    }
    with LocalServer([model], ["--provider", "cpu"]) as server, mattebox.Client(server.address) as client:
        for refusals, (bad, reason) in enumerate(reasons.items(), 1):
            install(bad, model)
            os.kill(server.pid, signal.SIGHUP)
            event = "the new model is refused, the old one stays"
            until_counted(server, event, refusals)
            refused = [line for line in server.events if line.get("event") == event][-1]
            assert (refused["model"], refused["level"]) == ("colour", "error")
            assert reason in refused["reason"]
            assert client.remove_background(PHOTO).execution.weights_sha256 == digest(colour_model)
        install(new_model, model)
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: count(server, "model reloaded") == 1)
        assert client.remove_background(PHOTO).execution.weights_sha256 == digest(new_model)


def test_changed_files_are_found(new_model: Path, model: Path, brightness_model: Path) -> None:
    flags = ["--provider", "cpu", "--reload-models-seconds", "0.1"]
    with LocalServer([model, brightness_model], flags) as server, mattebox.Client(server.address) as client:
        install(new_model, model)
        until(lambda: count(server, "model reloaded") == 1)
        assert client.remove_background(PHOTO).execution.weights_sha256 == digest(new_model)
        model.write_bytes(b"not a model")  # in place, as `cp` does
        until(lambda: count(server, "the new model is refused, the old one stays") == 1)
        assert client.remove_background(PHOTO).execution.weights_sha256 == digest(new_model)
        install(new_model, model)
        until(lambda: count(server, "model reloaded") == 2)
        assert count(server, "the new model is refused, the old one stays") == 1
        assert not any(line.get("model") == "brightness" and line["event"] == "reloading" for line in server.events)


def test_the_end_of_the_server_waits_for_no_reload(model: Path) -> None:
    """A reload may take minutes, as TensorRT's builds do, and nothing can interrupt it."""
    code = (
        "import sys, time\n"
        "from mattebox_server import app, settings\n"
        "from mattebox_server.engine.loading import ModelFiles\n"
        "ModelFiles.open = lambda *_: time.sleep(600)\n"
        f"model = {str(model)!r}\n"
        "sys.exit(app.run(settings.Settings(model=[model], address='127.0.0.1:0', provider='cpu')))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for number, event in ((signal.SIGHUP, "serving"), (signal.SIGTERM, "reloading")):
            while event not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(number)
        assert process.wait(timeout=60) == 0
        assert "stopped" in process.stderr.read()


# A network that begins to fail


def ask(engine: Engine) -> int:
    """The least foreground of a red photo, which is all foreground."""
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 255
    return int(asyncio.run(engine.infer(engine.network(""), red, frozenset({1}), None)).foreground.min())


def is_up(engine: Engine) -> bool:
    return engine.networks[0].is_serving


def break_sessions(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """Makes all sessions fail that there are now, but not later ones."""
    broken, run = engine.networks[0].sessions, ArtifactSession.run

    def failing(self: ArtifactSession, *arguments: Any) -> Maps:
        if self in broken:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        return run(self, *arguments)

    monkeypatch.setattr(ArtifactSession, "run", failing)
    for _ in range(3):
        with pytest.raises(InferenceFailed):
            ask(engine)


@pytest.fixture(params=["cpu", "openvino"])
def engine(model: Path, request: pytest.FixtureRequest) -> Generator[Engine]:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    engine = load_engine([model], replace(OPTIONS, provider=request.param))
    yield engine
    engine.close()


def test_a_real_network_that_fails_is_rebuilt_from_its_file(
    monkeypatch: pytest.MonkeyPatch, colour_model: Path, engine: Engine
) -> None:
    assert ask(engine) > 200
    with capture_logs() as logs:
        break_sessions(monkeypatch, engine)
        with pytest.raises(NotServing):
            ask(engine)
        until(lambda: is_up(engine))
        assert ask(engine) > 200
    phases = [entry["phase"] for entry in logs if entry["event"] == "phase"]
    assert phases == ["compile", "check", "warm up"]
    assert engine.networks[0].spec.weights.sha256 == digest(colour_model)


def test_photos_that_a_real_network_fails_on_do_not_take_it_out_of_service(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """The session fails on photos of 64x64 only, and answers the check photo, which is larger."""
    (session,), run = engine.networks[0].sessions, ArtifactSession.run

    def failing(self: ArtifactSession, images: Pixels, *arguments: Any) -> Maps:
        if images.shape == (1, 64, 64, 3):
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        return run(self, images, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactSession, "run", failing)
        for _ in range(7):
            with pytest.raises(InferenceFailed):
                ask(engine)
    assert ask(engine) > 200
    assert engine.networks[0].sessions == (session,)


def test_a_rebuild_takes_no_other_artifact(
    monkeypatch: pytest.MonkeyPatch, colour_model: Path, new_model: Path, model: Path, engine: Engine
) -> None:
    """The new file was not asked for yet, and the sessions of one network must be of one artifact."""
    install(new_model, model)
    with capture_logs() as logs:
        break_sessions(monkeypatch, engine)
        until(lambda: "the session can't be rebuilt" in [entry["event"] for entry in logs])
        assert not is_up(engine)
    assert any("reload it (SIGHUP)" in str(entry.get("reason")) for entry in logs)
    engine.reload()
    assert engine.network("").spec.weights.sha256 == digest(new_model) != digest(colour_model)


# Files


def files_of(model: Path) -> ModelFiles:
    return ModelFiles({"colour": ModelFile(model, file_state(model))}, OPTIONS)


def test_a_file_is_taken_when_it_stands_still(new_model: Path, model: Path) -> None:
    files = files_of(model)
    assert [files.changed() for _ in range(3)] == [[], [], []]
    install(new_model, model)
    assert [files.changed() for _ in range(2)] == [[], ["colour"]]
    data = model.read_bytes()
    for length in range(0, len(data), len(data) // 5):  # somebody writes
        model.write_bytes(data[:length])
        assert files.changed() == []
    assert files.changed() == ["colour"]


def test_one_that_was_tried_is_not_tried_again(colour_model: Path, model: Path) -> None:
    files, (old,) = files_of(model), load_engine([model], OPTIONS).networks
    model.write_bytes(b"not a model")
    files.changed()
    assert files.changed() == ["colour"]
    with pytest.raises(StartupError):
        files.open(old)
    assert [files.changed() for _ in range(2)] == [[], []]
    install(colour_model, model)
    assert [files.changed() for _ in range(2)] == [[], ["colour"]]
    assert files.open(old).spec == old.spec
    assert files.changed() == []


def test_a_file_that_is_gone_is_said_once(colour_model: Path, model: Path) -> None:
    files = files_of(model)
    files.changed()
    model.unlink()
    with capture_logs() as logs:
        assert [files.changed() for _ in range(3)] == [[], [], []]
    assert [entry["event"] for entry in logs] == ["the model's file is gone"]
    install(colour_model, model)
    assert [files.changed() for _ in range(2)] == [[], ["colour"]]


def test_a_file_that_changes_while_it_is_loaded_is_refused(
    monkeypatch: pytest.MonkeyPatch, colour_model: Path, new_model: Path, model: Path
) -> None:
    """Its spec and its graph could be those of two artifacts."""
    files, (old,) = files_of(model), load_engine([model], OPTIONS).networks
    open_proven = proving.open_proven

    def meanwhile(*arguments: Any) -> ArtifactSession:
        opened = open_proven(*arguments)
        install(new_model, model)
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(loading, "open_proven", meanwhile)
        with pytest.raises(StartupError, match="changed while it was loaded"):
            files.open(old)
        install(colour_model, model)
        with pytest.raises(StartupError, match="changed while it was loaded"):
            load_engine([model], OPTIONS)
    files.changed()
    assert files.changed() == ["colour"]
    assert files.open(old).spec.labels == NEW_LABELS


def test_a_reload_keeps_the_provider(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto`, a GPU that has no room for two networks would be left for a slower provider."""
    files = ModelFiles({"colour": ModelFile(model, file_state(model))}, replace(OPTIONS, provider="auto"))
    (old,) = load_engine([model], OPTIONS).networks
    asked: list[str] = []

    def find(provider: ProviderName) -> Device:
        asked.append(provider)
        return find_device(provider)

    monkeypatch.setattr(loading, "find_device", find)
    assert files.open(old).provider == "cpu"
    assert files.open_session(old).provider == "cpu"
    assert asked == ["cpu", "cpu"]


def test_a_file_that_is_cut_short_while_it_is_read(model: Path) -> None:
    class CutShort(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            if whence == os.SEEK_CUR:  # over the graph, to the metadata
                self.truncate(len(self.getvalue()) // 2)
            return super().seek(offset, whence)

    with pytest.raises(ValueError, match="ends in the middle"):
        read_metadata(CutShort(model.read_bytes()))
