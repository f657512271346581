"""A server serves only whole files whose networks give the right answer to the check photo."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

import images
import mattebox
import networks
from conftest import run_export
from mattebox_server.engine import phases, proving, selfcheck
from mattebox_server.engine.artifact import read_artifact, read_metadata
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.opening import ArtifactSession, open_session
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.proving import plans, warm_up
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.engine.session import Maps, Stop
from mattebox_server.errors import StartupError
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.local import LocalServer
from mattebox_server.spec import METADATA_KEY, ModelSpec

OPTIONS = EngineConfig(provider="cpu")


def opened(model: Path, options: EngineConfig = OPTIONS) -> ArtifactSession:
    return open_session(plans(read_artifact(model), find_device("cpu"), options)[0])


class Broken:
    """A session whose device computes something else than the network."""

    provider: ProviderName

    def __init__(self, whole: ArtifactSession, kind: str) -> None:
        self._whole, self._kind = whole, kind
        self.spec, self.precision = whole.spec, whole.precision
        self.bounds: tuple[int, int] | None = None
        self.provider = whole.provider
        self.is_open = True

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
        maps = self._whole.run(images, keep, stop)
        foreground, classes = maps.foreground, maps.classes
        match self._kind:
            case "as it is":
                return maps
            case "zeros":
                return Maps(np.zeros_like(foreground), None if classes is None else np.zeros_like(classes))
            case "inverted":
                return Maps(255 - foreground, classes)
            case "mirrored":
                return Maps(foreground[..., ::-1].copy(), classes)
            case "shuffled classes":
                return Maps(foreground, None if classes is None else 3 - classes)
            case _:
                raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")


@pytest.mark.parametrize("kind", ["zeros", "inverted", "mirrored", "shuffled classes", "raises"])
def test_a_device_that_computes_nonsense_is_found(colour_model: Path, kind: str) -> None:
    whole = opened(colour_model)
    assert check_session(whole) == {"mean_levels": 0.0, "same_classes": 1.0}
    with pytest.raises(ProviderUnavailable, match="failed" if kind == "raises" else "computes something else"):
        check_session(Broken(whole, kind))


@pytest.mark.parametrize("kind", ["zeros", "inverted", "mirrored"])
def test_nonsense_of_a_saliency_network(brightness_model: Path, kind: str) -> None:
    with pytest.raises(ProviderUnavailable, match="computes something else"):
        check_session(Broken(opened(brightness_model), kind))


def test_nonsense_stops_the_server(colour_model: Path, folder: Path) -> None:
    """A file with another network's weights gives another answer to the check photo than its spec says."""
    model = onnx.load_model_from_string(colour_model.read_bytes())
    for weights in model.graph.initializer:
        if list(weights.dims) == [4, 3, 1, 1]:
            weights.raw_data = networks.COLOUR_WEIGHTS[::-1].tobytes()
    (folder / "damaged.onnx").write_bytes(model.SerializeToString())
    for provider in ("cpu", "auto"):
        with pytest.raises(StartupError, match="computes something else"):
            LocalServer([folder / "damaged.onnx"], ["--provider", provider]).__enter__()


class Compiled(Broken):
    """A session whose provider keeps compiled models."""

    max_batch = 1

    def __init__(self, whole: ArtifactSession, kind: str, cache: str) -> None:
        super().__init__(whole, kind)
        self.cache = cache
        self.fate = ""

    def close(self) -> None:
        pass

    def keep_compiled(self) -> None:
        self.fate = "kept"

    def forget_compiled(self) -> None:
        self.fate = "forgotten"


@pytest.mark.parametrize(
    ("found", "fates"),
    [
        ([("miss", "whole")], ["kept"]),
        ([("hit", "whole")], ["kept"]),
        ([("hit", "zeros"), ("miss", "whole")], ["forgotten", "kept"]),
        ([("hit", "zeros"), ("miss", "zeros")], ["forgotten", "forgotten"]),
        ([("miss", "zeros")], ["forgotten"]),
    ],
)
def test_nonsense_from_a_cache_is_compiled_anew_once(
    colour_model: Path, monkeypatch: pytest.MonkeyPatch, found: list[tuple[str, str]], fates: list[str]
) -> None:
    whole = opened(colour_model)
    made: list[Compiled] = []

    def session_of(*_: object) -> Compiled:
        cache, kind = found[len(made)]
        made.append(Compiled(whole, "as it is" if kind == "whole" else kind, cache))
        return made[-1]

    monkeypatch.setattr(proving, "open_session", session_of)
    if fates[-1] == "kept":
        load_engine([colour_model], OPTIONS).close()
    else:
        with pytest.raises(StartupError, match="computes something else"):
            load_engine([colour_model], OPTIONS)
    assert [each.fate for each in made] == fates


def test_every_phase_is_logged_with_its_time(colour_model: Path) -> None:
    with capture_logs() as events:
        load_engine([colour_model], OPTIONS).close()
    found = {event["phase"]: event for event in events if event["event"] == "phase"}
    assert list(found) == ["compile", "check", "warm up"]
    assert all(event["seconds"] >= 0 and event["model"] == "colour" for event in found.values())
    assert (found["compile"]["cache"], found["compile"]["precision"]) == ("none", "fp32")
    assert found["check"]["same_classes"] == 1.0


def test_a_long_phase_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch, colour_model: Path) -> None:
    def slow(*arguments: Any) -> ArtifactSession:
        events_seen.wait(10)
        return open_session(*arguments)

    events_seen = threading.Event()
    tell = phases.log.info

    def info(event: str, **facts: Any) -> None:
        if event == "phase goes on":
            events_seen.set()
        tell(event, **facts)

    monkeypatch.setattr(phases, "_REPORT_S", 0.01)
    monkeypatch.setattr(proving, "open_session", slow)
    monkeypatch.setattr(phases.log, "info", info, raising=False)
    load_engine([colour_model], OPTIONS).close()
    assert events_seen.is_set()


def test_a_model_for_another_provider_runs_but_says_so(folder: Path) -> None:
    core = networks.save_colour_core(folder / "core.onnx")
    options = ["--labels", ",".join(networks.COLOUR_LABELS), "--target", "openvino", "-o", folder / "for-openvino.onnx"]
    run_export("custom", "--core", core, *options)
    with capture_logs() as events:
        load_engine([folder / "for-openvino.onnx"], OPTIONS).close()
    (warning,) = [event for event in events if event["log_level"] == "warning"]
    assert warning["remedy"] == "mattebox-export --target cpu"


def test_half_precision_is_refused_by_a_cpu(colour_model: Path, folder: Path) -> None:
    core = networks.save_colour_core(folder / "core.onnx")
    options = ["--labels", ",".join(networks.COLOUR_LABELS), "--target", "cuda", "--precision", "fp16"]
    run_export("custom", "--core", core, *options, "-o", folder / "half.onnx")
    for provider in ("cpu", "auto"):
        with pytest.raises(StartupError, match="export it with --precision fp32"):
            LocalServer([folder / "half.onnx"], ["--provider", provider]).__enter__()
    with pytest.raises(StartupError, match="in bf16 here, only in fp32"):
        load_engine([colour_model], EngineConfig(provider="cpu", precision="bf16"))


def test_warm_up_runs_every_usual_shape_but_on_the_cpu_provider(colour_model: Path) -> None:
    class Elsewhere(Broken):
        def __init__(self, provider: ProviderName) -> None:
            super().__init__(opened(colour_model, EngineConfig(max_batch=8)), "as it is")
            self.provider: ProviderName = provider
            self.shapes: list[tuple[int, ...]] = []

        def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
            self.shapes.append(images.shape)
            return self._whole.run(images, keep, stop)

    cpu, openvino, cuda = Elsewhere("cpu"), Elsewhere("openvino"), Elsewhere("cuda")
    assert (warm_up(cpu, 1), warm_up(openvino, 1), warm_up(cuda, 8)) == (0, 7, 14)
    assert cpu.shapes == []
    assert {(1, 64, 96, 3), (1, 96, 64, 3), (1, 64, 64, 3), (1, 64, 85, 3)} <= set(openvino.shapes)
    assert {shape[0] for shape in cuda.shapes} == {1, 8}


def test_a_network_of_one_photo_a_run_never_gets_more(folder: Path) -> None:
    core = networks.save_colour_core(folder / "core.onnx", 32, 1)
    run_export("custom", "--core", core, "--labels", ",".join(networks.COLOUR_LABELS), "-o", folder / "one.onnx")
    photos = [selfcheck.synthetic_photo(32, 32, seed) for seed in range(6)]

    async def ask(engine: Engine) -> list[int]:
        found = await asyncio.gather(
            *(engine.infer(engine.network(""), photo, frozenset({1}), None) for photo in photos)
        )
        return [answer.batch_size for answer in found]

    engine = load_engine([folder / "one.onnx"], EngineConfig(provider="cpu", max_batch=4))
    assert asyncio.run(ask(engine)) == [1] * 6
    engine.close()


def test_the_spec_is_read_without_a_session(colour_model: Path) -> None:
    metadata = read_metadata(colour_model.open("rb"))
    assert metadata == ort.InferenceSession(colour_model).get_modelmeta().custom_metadata_map
    assert ModelSpec.from_metadata(metadata).name == "colour"


def test_files_that_end_too_early(colour_model: Path, tmp_path: Path) -> None:
    """Any beginning of a file is refused with a reason, never with a crash."""
    data = colour_model.read_bytes()
    for length in [*range(0, len(data), 7), len(data) - 1]:
        (tmp_path / "part.onnx").write_bytes(data[:length])
        with pytest.raises(StartupError, match=r"part\.onnx"):
            load_engine([tmp_path / "part.onnx"], OPTIONS)


def test_noise_is_no_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    endless = [bytes((tag, *[255] * 9, 1)) for tag in (0x0A, 0x72)]  # fields of 2^64 - 1 bytes, to skip and to read
    for noise in (*endless, *(rng.bytes(int(rng.integers(1, 400))) for _ in range(200))):
        (tmp_path / "noise.onnx").write_bytes(noise)
        with pytest.raises(StartupError, match="noise"):
            read_artifact(tmp_path / "noise.onnx")


def test_a_model_without_an_expectation_is_refused(colour_model: Path, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(colour_model.read_bytes())
    spec = ModelSpec.from_metadata(read_metadata(colour_model.open("rb"))).model_copy(update={"expectation": None})
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    (tmp_path / "silent.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(StartupError, match="doesn't say what its network should answer"):
        read_artifact(tmp_path / "silent.onnx")


def test_the_check_photo_is_the_same_everywhere() -> None:
    """The exporter and every server must draw the same photo, or the answers can't be compared."""
    photo = selfcheck.synthetic_photo(30, 40, 1)
    assert photo.shape == (30, 40, 3)
    assert photo.max() <= 240
    assert (photo == selfcheck.synthetic_photo(30, 40, 1)).all()
    assert not (photo == selfcheck.synthetic_photo(30, 40, 2)).all()
    assert [int(value) for value in photo[3, 5]] == [206, 125, 14]


def test_several_sessions(colour_model: Path) -> None:
    with (
        LocalServer([colour_model], ["--provider", "cpu", "--sessions", "2"]) as server,
        mattebox.Client(server.address) as client,
    ):
        loaded = next(event for event in server.events if event["event"] == "model loaded")
        assert loaded["sessions"] == 2
        assert client.remove_background(images.encode(images.scene())).execution.batch_size == 1
