"""Both runtimes of a CPU, by the same tests: exact answers, cancelled runs, failures, closed networks."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import altered_models
import networks
from conftest import run_export
from mattebox_server.engine import processor
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable
from mattebox_server.engine.inference import Abandoned, run_session
from mattebox_server.engine.opening import ArtifactSession, open_session
from mattebox_server.engine.plan import Plan
from mattebox_server.engine.providers import find_device, runtime_of
from mattebox_server.engine.proving import open_checked, plans
from mattebox_server.engine.runtime_onnxruntime import DeviceBuffers
from mattebox_server.engine.session import Stop
from mattebox_server.errors import InferenceFailed, StartupError
from mattebox_server.imaging.pixels import Pixels

KEPT = frozenset({1, 3})
SHAPES = [(64, 64), (64, 96), (64, 64), (96, 64), (80, 80), (64, 96), (64, 64)]


@pytest.fixture(name="provider", params=["cpu", "openvino"])
def _provider(request: pytest.FixtureRequest) -> ProviderName:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    provider: ProviderName = request.param
    return provider


def planned(model: Path, provider: ProviderName, **config: Any) -> Plan:
    return plans(read_artifact(model), find_device(provider), EngineConfig(provider=provider, **config))[0]


def opened(model: Path, provider: ProviderName, **config: Any) -> ArtifactSession:
    return open_session(planned(model, provider, **config))


def photos(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def keep(count: int) -> NDArray[np.float32]:
    return np.tile(np.array([index in KEPT for index in range(4)], np.float32), (count, 1))


def colour_answer(images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The colour network's probability of the kept classes, in grey levels, and its classes, by numpy alone."""
    rgb = images[..., ::-1].transpose(0, 3, 1, 2)
    logits = networks.colour_network(np.asarray(rgb / 255, np.float32))
    odds = np.exp(logits.astype(np.float64))
    return 255 * odds[:, sorted(KEPT)].sum(axis=1) / odds.sum(axis=1), logits.argmax(axis=1)


def check_colours(session: ArtifactSession, images: Pixels) -> None:
    maps = session.run(images, keep(len(images)))
    levels, classes = colour_answer(images)
    assert np.abs(maps.foreground - levels).max() < 0.51
    assert maps.classes is not None
    assert (maps.classes == classes).mean() > 0.999  # two classes may be equally likely but for the last digit


# Answers


@pytest.mark.parametrize("max_batch", [1, 4])
def test_colours_of_any_shape_and_back(colour_model: Path, provider: ProviderName, max_batch: int) -> None:
    session = opened(colour_model, provider, threads=2, max_batch=max_batch)
    assert (session.provider, session.precision, session.max_batch) == (provider, "fp32", max_batch)
    for seed, (height, width) in enumerate(SHAPES):
        check_colours(session, photos(max_batch if seed % 2 else 1, height, width, seed))


def test_brightness(brightness_model: Path, provider: ProviderName) -> None:
    session = opened(brightness_model, provider)
    for seed in range(3):
        images = photos(1, 80, 80, seed)
        maps = session.run(images, None)
        assert np.abs(maps.foreground - images.mean(axis=3)).max() < 0.51
        assert maps.classes is None


def test_answers_belong_to_the_caller(colour_model: Path, provider: ProviderName) -> None:
    """No later run writes over them, and no answer holds the photo."""
    session = opened(colour_model, provider)
    kept: list[tuple[Pixels, Pixels]] = []
    for seed in range(5):
        maps = session.run(photos(1, 64, 64, seed), keep(1))
        kept.append((maps.foreground, maps.foreground.copy()))
        maps.foreground.flags.writeable = True  # it is nobody else's
    assert all((found == before).all() for found, before in kept)
    assert len({found.tobytes() for found, _ in kept}) == 5


def test_photos_that_lie_oddly_in_memory(colour_model: Path, provider: ProviderName) -> None:
    session = opened(colour_model, provider)
    mirrored = photos(1, 64, 80)[:, :, ::-1]
    frozen = photos(1, 64, 80)
    frozen.flags.writeable = False
    for images in (mirrored, frozen, photos(1, 128, 80)[:, ::2]):
        check_colours(session, images)


def test_a_batch_that_the_artifact_fixes(folder: Path, provider: ProviderName) -> None:
    core = networks.save_colour_core(folder / "fixed-core.onnx", 32, 1)
    run_export("custom", "--core", core, "--labels", ",".join(networks.COLOUR_LABELS), "-o", folder / "fixed.onnx")
    assert opened(folder / "fixed.onnx", provider, max_batch=4).max_batch == 1


def compiled_of(loaded: Any) -> Any:
    """OpenVINO's own object, which knows the options that it really uses."""
    return loaded._request.get_compiled_model()


def test_threads(colour_model: Path) -> None:
    pytest.importorskip("openvino")
    compiled = compiled_of(runtime_of("openvino").load(planned(colour_model, "openvino", threads=6, sessions=3), None))
    names = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING")
    assert [compiled.get_property(name) for name in names] == [2, 1, False]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype() == np.float32


# int8 and bf16


def test_an_int8_network(colour_model: Path, tmp_path: Path, provider: ProviderName) -> None:
    """Its answer is that of its own graph, computed in float, and it runs in int8 whatever the device has."""
    path = altered_models.save_int8(colour_model, tmp_path / "int8.onnx")
    session = open_checked(read_artifact(path), find_device(provider), EngineConfig())
    assert (session.provider, session.precision) == (provider, "int8")
    images = photos(1, 64, 64)
    maps = session.run(images, keep(1))
    levels, _ = colour_answer(images)
    assert 0 < np.abs(maps.foreground - levels).mean() < 6  # it isn't fp32's
    with pytest.raises(ProviderUnavailable, match="only in int8"):
        opened(path, provider, precision="fp32")


def has_bf16() -> bool:
    pytest.importorskip("openvino")
    return "bf16" in find_device("openvino").native


def test_bf16_runs_where_it_passed_its_gate(colour_model: Path, tmp_path: Path) -> None:
    if not has_bf16():
        pytest.skip("this processor has no bf16")
    path = altered_models.save_judged(colour_model, tmp_path / "judged.onnx", mean_levels=1.0)
    session = open_checked(read_artifact(path), find_device("openvino"), EngineConfig())
    assert session.precision == "bf16"
    hint = compiled_of(session._loaded).get_property("INFERENCE_PRECISION_HINT")  # pyright: ignore[reportPrivateUsage]
    assert str(hint) == "<Type: 'bfloat16'>"


# Runs that are asked to end


class Asking(Stop):
    """Asks as soon as the run can hear it, or has something else done then."""

    def __init__(self, act: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._first = act or self.ask

    def on_ask(self, act: Callable[[], None]) -> None:
        super().on_ask(act)
        self._first()


@pytest.fixture(name="slow_model", scope="module")
def _slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return altered_models.save_slow(tmp_path_factory.mktemp("slow"))


def test_a_run_that_is_asked_to_end(slow_model: Path, provider: ProviderName) -> None:
    session, image = opened(slow_model, provider), photos(1, 256, 256)
    expected = session.run(image, None).foreground
    for _ in range(3):
        with pytest.raises(Abandoned):
            run_session(session, [image[0]], [frozenset[int]()], Asking())
        assert (session.run(image, None).foreground == expected).all()


def test_one_that_was_asked_before_it_began(slow_model: Path, provider: ProviderName) -> None:
    session, stop = opened(slow_model, provider), Stop()
    stop.ask()
    with pytest.raises(Abandoned):
        run_session(session, [photos(1, 256, 256)[0]], [frozenset[int]()], stop)
    session.run(photos(1, 64, 64), None)


def test_asking_after_the_end_stops_no_later_run(slow_model: Path, provider: ProviderName) -> None:
    session, image, late = opened(slow_model, provider), photos(1, 96, 96), Stop()
    expected = session.run(image, None, late).foreground
    assert (session.run(image, None, Asking(late.ask)).foreground == expected).all()
    late.ask()
    assert (session.run(image, None).foreground == expected).all()


def test_asking_at_any_moment(colour_model: Path, provider: ProviderName) -> None:
    """A run ends with the right answer or with an error, and the next one isn't disturbed."""
    session, image, rng = opened(colour_model, provider), photos(1, 64, 96), random.Random(0)
    levels, _ = colour_answer(image)
    ends: list[bool] = []
    for _ in range(300):
        stop = Stop()
        asker = threading.Timer(rng.uniform(0, 0.002), stop.ask)
        asker.start()
        try:
            answer = session.run(image, keep(1), stop)
        except Exception:  # noqa: BLE001 - each runtime raises its own
            assert stop.asked
            ends.append(False)
        else:
            assert np.abs(answer.foreground - levels).max() < 0.51
            ends.append(True)
        check_colours(session, image)
        asker.join()
    assert True in ends


# Failures


def test_an_operation_that_fails_for_one_shape(colour_model: Path, tmp_path: Path, provider: ProviderName) -> None:
    session = opened(altered_models.save_for_one_width(colour_model, tmp_path / "narrow.onnx", 80), provider)
    check_colours(session, photos(1, 64, 80))
    for _ in range(2):
        with pytest.raises(InferenceFailed, match=f"colour on {provider} failed"):
            run_session(session, [photos(1, 64, 96)[0]], [KEPT])
        check_colours(session, photos(1, 64, 80))


@pytest.mark.parametrize("start", [100, 1])
def test_a_graph_whose_answer_has_another_shape(
    colour_model: Path, tmp_path: Path, provider: ProviderName, start: int
) -> None:
    """Whether it is narrower or wider than the photo."""
    session = opened(altered_models.save_cut(colour_model, tmp_path / "cut.onnx", start), provider)
    with pytest.raises(InferenceFailed):
        run_session(session, [photos(1, 64, 80)[0]], [KEPT])


def test_a_network_that_is_closed(colour_model: Path, provider: ProviderName) -> None:
    session = opened(colour_model, provider)
    session.close()
    with pytest.raises(InferenceFailed, match="closed"):
        run_session(session, [photos(1, 64, 80)[0]], [KEPT])


def test_a_graph_that_is_not_what_its_spec_says(
    colour_model: Path, brightness_model: Path, tmp_path: Path, provider: ProviderName
) -> None:
    for graph, spec in ((colour_model, brightness_model), (brightness_model, colour_model)):
        path = altered_models.save_with_spec_of(graph, spec, tmp_path / "liar.onnx")
        with pytest.raises(StartupError, match="says that it is"):
            opened(path, provider)
    with pytest.raises(StartupError, match="keep must be float32, not "):
        opened(altered_models.save_with_double_keep(colour_model, tmp_path / "double.onnx"), provider)


def test_a_file_that_the_runtime_refuses(colour_model: Path, tmp_path: Path, provider: ProviderName) -> None:
    path = altered_models.save_with_unknown_operation(colour_model, tmp_path / "unknown.onnx")
    with pytest.raises(ProviderUnavailable, match=f"{provider} can't load the network"):
        opened(path, provider)


def test_the_instruction_sets_belong_to_the_device(tmp_path: Path) -> None:
    """A virtual machine may hide some of a processor, whose name stays the same."""
    pytest.importorskip("openvino")
    for text, expected in (
        ("processor: 0\nflags\t\t: sse2 avx512f fma\n\nprocessor: 1\nflags: x\n", "avx512f fma sse2"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "asimd bf16 fp"),
        ("nothing of that kind\n", ""),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        assert processor.instruction_sets(tmp_path / "cpuinfo") == expected
    assert processor.instruction_sets(tmp_path / "no file") == platform.processor()
    here = find_device("openvino")
    assert set(here.versions) == {"openvino"}
    assert processor.instruction_sets() in here.name


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("sse2 avx2", True),
        ("sse2 avx2 avx512f", True),
        ("sse2 avx2 avx_vnni", False),
        ("avx2 avx512_vnni", False),
        ("avx2 amx_int8", False),
        ("asimd", False),
    ],
)
def test_which_processors_saturate(tmp_path: Path, flags: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert processor.saturates(tmp_path / "cpuinfo") is expected


def test_a_signal_after_sessions_of_openvino_are_closed_is_handled(colour_model: Path) -> None:
    """Sessions that are closed in the order in which they were opened leave no stack for signals that is gone."""
    pytest.importorskip("openvino")
    code = f"""
import faulthandler, os, signal
from pathlib import Path
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.proving import open_checked
faulthandler.enable()
artifact = read_artifact(Path({str(colour_model)!r}))
sessions = [open_checked(artifact, find_device("openvino"), EngineConfig()) for _ in range(3)]
while sessions:
    sessions.pop(0).close()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["handled"]), done.stderr[-2000:]


def test_openvino_sends_no_usage_data(tmp_path: Path) -> None:
    """Its package would write into the home folder and report its import, in a thread of its own."""
    pytest.importorskip("openvino")
    code = (
        "import sys, threading; from mattebox_server.engine.providers import find_device;"
        "find_device('openvino'); print(sys.modules['openvino_telemetry'], threading.active_count())"
    )
    command = [sys.executable, "-c", code]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["None", "1"]
    assert list(tmp_path.iterdir()) == []


# Buffers of a GPU, which also work on a CPU


def bound(model: Path) -> DeviceBuffers:
    return DeviceBuffers(ort.InferenceSession(model, providers=["CPUExecutionProvider"]), "cpu")


def buffers(count: int, height: int, width: int) -> dict[str, Pixels]:
    return {name: np.empty((count, height, width), np.uint8) for name in ("foreground", "classes")}


def test_runs_on_buffers_of_the_device(colour_model: Path) -> None:
    """They give the same numbers as arrays, and are used again."""
    whole, device = opened(colour_model, "cpu", max_batch=2), bound(colour_model)
    kept: list[tuple[Pixels, Pixels]] = []
    for size in [(64, 64), (64, 80), (64, 64), *((64, 90 + n) for n in range(10)), (64, 64)]:
        for batch in (1, 2):
            images = photos(batch, *size)[..., ::-1]  # not contiguous
            expected, found = whole.run(images, keep(batch)), buffers(batch, *size)
            device.run({"image": images, "keep": keep(batch)}, found, ort.RunOptions())
            assert (found["foreground"] == expected.foreground).all()
            assert (found["classes"] == expected.classes).all()
            kept.append((found["foreground"], expected.foreground))
    assert all((found == expected).all() for found, expected in kept)  # no later run wrote over them
    assert len(device._bound) == 8  # pyright: ignore[reportPrivateUsage]


def test_a_run_that_fails_gives_its_buffers_back(colour_model: Path) -> None:
    """The next run may need the memory that these buffers hold."""
    device, images, options = bound(colour_model), photos(1, 64, 64), ort.RunOptions()
    device.run({"image": images, "keep": keep(1)}, buffers(1, 64, 64), options)
    with pytest.raises(Exception, match="keep"):
        device.run({"image": images[:, :32], "keep": np.zeros((1, 9), np.float32)}, buffers(1, 32, 64), options)
    assert not device._bound  # pyright: ignore[reportPrivateUsage]
    device.run({"image": images, "keep": keep(1)}, buffers(1, 64, 64), options)
