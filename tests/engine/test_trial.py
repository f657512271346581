"""OpenVINO's compiled networks are kept, proven, and tried in another process before `auto` trusts them."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import altered_models
import images
import mattebox
from altered import altered_server
from mattebox_server.engine import loading, proving, trial
from mattebox_server.engine.artifact import file_state
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable
from mattebox_server.engine.loading import ModelFile, ModelFiles, load_engine
from mattebox_server.engine.opening import ArtifactSession
from mattebox_server.engine.plan import Device
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.selfcheck import check_session
from waiting import eventually

pytest.importorskip("openvino")


def ending_by(number: signal.Signals) -> tuple[str, ...]:
    return sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"


@pytest.fixture(name="auto")
def _auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    monkeypatch.setattr(loading, "LADDER", ("openvino", "cpu"))
    return EngineConfig(cache_dir=tmp_path / "cache")


def start(model: Path, config: EngineConfig) -> tuple[ProviderName, list[dict[str, Any]]]:
    """The provider that a server would run on, and its log."""
    with capture_logs() as logs:
        engine = load_engine([model], config)
    provider = engine.networks[0].provider
    engine.close()
    return provider, [dict(entry) for entry in logs]


def phases(logs: list[dict[str, Any]]) -> list[str]:
    return [entry["phase"] for entry in logs if entry["event"] == "phase"]


def caches(logs: list[dict[str, Any]]) -> list[str]:
    return [entry["cache"] for entry in logs if entry.get("phase") == "compile"]


def left_out(logs: list[dict[str, Any]]) -> list[str]:
    return [entry["reason"] for entry in logs if entry["event"] == "provider left out"]


def entries(config: EngineConfig) -> list[Path]:
    assert config.cache_dir is not None
    return sorted(config.cache_dir.iterdir())


# A trial


def test_the_child_compiles_for_its_parent_once(colour_model: Path, auto: EngineConfig) -> None:
    provider, logs = start(colour_model, auto)
    assert (provider, phases(logs), caches(logs)) == ("openvino", ["trial", "compile", "check", "warm up"], ["hit"])
    provider, logs = start(colour_model, auto)
    assert (provider, phases(logs), caches(logs)) == ("openvino", ["compile", "check", "warm up"], ["hit"])
    _, logs = start(colour_model, replace(auto, threads=2))  # other options are another network to compile
    assert phases(logs)[0] == "trial"
    assert len(entries(auto)) == 2


def test_without_a_cache_it_is_tried_at_each_start(colour_model: Path, auto: EngineConfig) -> None:
    for _ in range(2):
        provider, logs = start(colour_model, replace(auto, cache_dir=None))
        assert (provider, phases(logs)[0], caches(logs)) == ("openvino", "trial", ["none"])


def test_a_cache_that_cannot_be_written_costs_a_trial(colour_model: Path, auto: EngineConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    provider, logs = start(colour_model, replace(auto, cache_dir=tmp_path / "file" / "cache"))
    assert (provider, phases(logs)[0], caches(logs)) == ("openvino", "trial", ["none"])
    assert "compiled models can't be kept" in [entry["event"] for entry in logs]


def test_who_asks_by_name_needs_no_trial(
    colour_model: Path, auto: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "COMMAND", ending_by(signal.SIGFPE))
    provider, logs = start(colour_model, replace(auto, provider="openvino"))
    assert (provider, phases(logs), caches(logs)) == ("openvino", ["compile", "check", "warm up"], ["miss"])


def test_a_crash_is_remembered(colour_model: Path, auto: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "COMMAND", ending_by(signal.SIGFPE))
    provider, logs = start(colour_model, auto)
    assert (provider, left_out(logs)) == ("cpu", ["a trial of the network crashed by SIGFPE"])
    (memory,) = entries(auto)
    monkeypatch.undo()
    monkeypatch.setattr(loading, "LADDER", ("openvino", "cpu"))
    provider, logs = start(colour_model, auto)
    (reason,) = left_out(logs)
    assert (provider, phases(logs)[0]) == ("cpu", "compile")
    assert reason.startswith("a trial of the network crashed by SIGFPE at an earlier start")
    assert str(memory) in reason  # which to delete for another trial

    def newer(provider: ProviderName) -> Device:
        return replace(find_device(provider), versions={"openvino": "2030.1"})

    monkeypatch.setattr(loading, "find_device", newer)
    assert phases(start(colour_model, auto)[1])[0] == "trial"


@pytest.mark.parametrize("kind", ["killed", "slow", "wrong"])
def test_an_end_that_says_nothing_of_the_processor_is_not_remembered(
    colour_model: Path, auto: EngineConfig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    command, reason = {
        "killed": (ending_by(signal.SIGKILL), "a trial of the network ended by SIGKILL"),
        "slow": ((sys.executable, "-c", "import time; time.sleep(1000)"), "a trial of the network took longer than"),
        "wrong": ((sys.executable, "-c", "raise SystemExit(3)"), "a trial of the network ended with exit code 3"),
    }[kind]
    monkeypatch.setattr(trial, "COMMAND", command)
    monkeypatch.setattr(trial, "LIMIT_S", 0.2 if kind == "slow" else 60)
    provider, logs = start(colour_model, auto)
    assert provider == "cpu"
    assert left_out(logs)[0].startswith(reason)
    assert entries(auto) == []


def test_a_full_disk_costs_the_memory_of_a_crash(
    colour_model: Path, auto: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trial, "COMMAND", ending_by(signal.SIGSEGV))
    monkeypatch.setattr(Path, "write_text", full)
    provider, logs = start(colour_model, auto)
    assert (provider, left_out(logs)) == ("cpu", ["a trial of the network crashed by SIGSEGV"])
    assert entries(auto) == []


def test_what_the_child_finds_without_a_crash_its_parent_says(
    colour_model: Path, brightness_model: Path, auto: EngineConfig, tmp_path: Path
) -> None:
    path = altered_models.save_with_unknown_operation(colour_model, tmp_path / "unknown.onnx")
    with capture_logs() as logs, pytest.raises(Exception, match="openvino can't load the network"):
        load_engine([path], auto)
    assert phases([dict(entry) for entry in logs]) == ["trial"]
    path = altered_models.save_with_expectation_of(colour_model, brightness_model, tmp_path / "liar.onnx")
    with pytest.raises(Exception, match="on openvino: it computes something else"):
        load_engine([path], auto)
    assert entries(auto) == []


def test_a_reload_under_auto_is_tried_too(
    colour_model: Path, auto: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = load_engine([colour_model], auto).networks
    files = ModelFiles({"colour": ModelFile(colour_model, file_state(colour_model))}, replace(auto, cache_dir=None))
    monkeypatch.setattr(trial, "COMMAND", ending_by(signal.SIGFPE))
    with pytest.raises(Exception, match="can't run on openvino: a trial of the network crashed by SIGFPE"):
        files.open(old)
    assert files.open_session(old).provider == "openvino"  # of the network that runs already


def test_a_server_whose_trial_crashes_serves_on_the_cpu(colour_model: Path, tmp_path: Path) -> None:
    crash = f"from mattebox_server.engine import trial; trial.COMMAND = {ending_by(signal.SIGFPE)!r}"
    flags = ["--cache-dir", str(tmp_path)]
    with altered_server([colour_model], flags, crash) as server, mattebox.Client(server.address) as client:
        execution = client.remove_background(images.encode(images.scene())).execution
        reasons = {
            event["provider"]: event["reason"] for event in server.events if event["event"] == "provider left out"
        }
    assert execution.provider == "cpu"
    assert reasons["openvino"] == "a trial of the network crashed by SIGFPE"


HANGING = """
import os, pathlib, time
from mattebox_server.engine import trial
trial.open_checked = lambda *_: (pathlib.Path({note!r}).write_text(str(os.getpid())), time.sleep(1000))
trial.main({arguments!r})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_server(colour_model: Path, tmp_path: Path, number: signal.Signals) -> None:
    note = tmp_path / "child"
    code = HANGING.format(note=str(note), arguments=[str(colour_model), "openvino", "auto", "1"])
    command = (sys.executable, "-c", code)
    hang = f"from mattebox_server.engine import trial; trial.COMMAND = {command!r}"
    server = altered_server([colour_model], ["--cache-dir", "off"], hang)
    with subprocess.Popen(server._command) as process:  # pyright: ignore[reportPrivateUsage]
        eventually(lambda: note.exists() and note.read_text() != "")
        child = int(note.read_text())
        assert is_alive(child)
        process.send_signal(number)
    eventually(lambda: not is_alive(child))


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# Compiled networks


def harm(config: EngineConfig, data: bytes) -> None:
    """Puts other data into the only compiled network, with a manifest that fits."""
    (entry,) = entries(config)
    manifest = json.loads((entry / "manifest.json").read_text())
    (entry / "network.blob").write_bytes(data)
    manifest["files"] = {"network.blob": hashlib.sha256(data).hexdigest()}
    (entry / "manifest.json").write_text(json.dumps(manifest))


def test_a_compiled_network_is_kept_when_it_is_proven(colour_model: Path, auto: EngineConfig) -> None:
    named = replace(auto, provider="openvino")
    assert [caches(start(colour_model, named)[1]) for _ in range(3)] == [["miss"], ["hit"], ["hit"]]
    (entry,) = entries(auto)
    assert {path.name for path in entry.iterdir()} == {"manifest.json", "network.blob"}


def test_one_that_openvino_refuses_is_compiled_anew(colour_model: Path, auto: EngineConfig) -> None:
    named = replace(auto, provider="openvino")
    start(colour_model, named)
    blob = entries(auto)[0] / "network.blob"
    for data in (b"", b"compiled", blob.read_bytes()[:-100]):
        harm(auto, data)
        _, logs = start(colour_model, named)
        assert caches(logs) == ["miss"]
        assert [entry["reason"] for entry in logs if entry["event"] == "compiled model deleted"] == [
            "the provider can't load it"
        ]
    assert caches(start(colour_model, named)[1]) == ["hit"]


def test_one_with_a_wrong_answer_is_compiled_anew(colour_model: Path, auto: EngineConfig, tmp_path: Path) -> None:
    named = replace(auto, provider="openvino")
    start(colour_model, named)
    (entry,) = entries(auto)
    wrong = altered_models.save_inverted(colour_model, tmp_path / "inverted.onnx")
    start(wrong, replace(named, cache_dir=tmp_path / "wrong"))
    harm(auto, next((tmp_path / "wrong").glob("*/network.blob")).read_bytes())
    _, logs = start(colour_model, named)
    assert caches(logs) == ["hit", "miss"]
    assert entries(auto) == [entry]
    assert caches(start(colour_model, named)[1]) == ["hit"]


def test_a_full_disk_costs_the_compiled_network(
    colour_model: Path, auto: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    provider, logs = start(colour_model, replace(auto, provider="openvino"))
    assert (provider, caches(logs), entries(auto)) == ("openvino", ["miss"], [])
    assert "compiled model not kept" in [entry["event"] for entry in logs]


# bf16


def test_auto_says_why_it_leaves_bf16_out(
    colour_model: Path, auto: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_device", with_bf16)
    named = replace(auto, provider="openvino")
    poor = altered_models.save_judged(colour_model, tmp_path / "poor.onnx", mean_levels=4.2)
    for model, words in ((colour_model, "nobody has judged"), (poor, "4.20 grey levels from fp32")):
        engine = load_engine([model], named)
        assert engine.networks[0].precision == "fp32"
        engine.close()
        (reason,) = [entry["reason"] for entry in start(model, named)[1] if entry["event"] == "precision left out"]
        assert words in reason
        with pytest.raises(Exception, match=words):
            load_engine([model], replace(named, precision="bf16"))


def test_fp32_takes_over_where_bf16_fails_on_the_check_photo(
    colour_model: Path, auto: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(session: ArtifactSession) -> dict[str, float]:
        if session.precision == "bf16":
            raise ProviderUnavailable("it computes something else")
        return check_session(session)

    monkeypatch.setattr(loading, "find_device", with_bf16)
    monkeypatch.setattr(proving, "check_session", check)
    named = replace(auto, provider="openvino", sessions=2)
    judged = altered_models.save_judged(colour_model, tmp_path / "judged.onnx", mean_levels=1.0)
    with capture_logs() as logs:
        engine = load_engine([judged], named)
    network = engine.networks[0]
    assert (network.provider, network.precision) == ("openvino", "fp32")
    assert [session.precision for session in network.sessions] == ["fp32", "fp32"]
    refused = [(entry["precision"], entry["reason"]) for entry in logs if entry["event"] == "precision left out"]
    assert refused == [("bf16", "it computes something else")]  # once, as the second session knows
    assert len(entries(auto)) == 1
    files = ModelFiles({"colour": ModelFile(judged, file_state(judged))}, named)
    assert files.open_session(network).precision == "fp32"
    engine.close()


def with_bf16(provider: ProviderName) -> Device:
    return replace(find_device(provider), native=frozenset({"bf16"}))
