"""A network runs on the provider that was asked for, or there is a reason why it can't."""

from pathlib import Path

import onnxruntime as ort
import pytest

from conftest import run_export
from mattebox_server.engine import providers
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.providers import check_placement, create_session, find_device
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer

HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
OPTIONS = EngineConfig(provider="cpu", threads=1)


def opened(model: Path, provider: ProviderName) -> ort.InferenceSession:
    return create_session(read_artifact(model), find_device(provider), OPTIONS)[0]


def openvino_here() -> bool:
    """OpenVINO's plugin serves Intel CPUs only."""
    try:
        providers._register_openvino()  # pyright: ignore[reportPrivateUsage]
        providers._openvino_cpu(ort.get_ep_devices())  # pyright: ignore[reportPrivateUsage]
    except ProviderUnavailable:
        return False
    return True


def test_the_threads_do_not_spin() -> None:
    options = providers.session_options(3, {})
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_asked_for_by_name_loads_or_stops_the_server(colour_model: Path, provider: str) -> None:
    with pytest.raises(StartupError, match="mattebox\\[cuda\\]"):
        LocalServer([colour_model], ["--provider", provider]).__enter__()


def test_openvino_runs_or_says_why_not(colour_model: Path) -> None:
    if not openvino_here():
        with pytest.raises(ProviderUnavailable, match="OpenVINO's plugin"):
            find_device("openvino")
        return
    assert opened(colour_model, "openvino").get_providers()[0] == "OpenVINOExecutionProvider"


@pytest.mark.skipif(HAS_CUDA or openvino_here(), reason="a better provider than cpu is here")
def test_auto_says_what_it_left_out_and_why(colour_model: Path) -> None:
    with LocalServer([colour_model]) as server:
        left_out = {e["provider"]: e["reason"] for e in server.events if e["event"] == "provider left out"}
        loaded = next(event for event in server.events if event["event"] == "model loaded")
    assert set(left_out) == {"cuda", "openvino"}
    assert all(left_out.values())
    assert loaded["provider"] == "cpu"


def test_placement_is_checked(folder: Path) -> None:
    run_export("u2netp", "-o", folder / "u2netp.onnx")
    session = opened(folder / "u2netp.onnx", "cpu")
    with pytest.raises(ProviderUnavailable, match="instead of CUDAExecutionProvider"):
        check_placement(session, "cuda")


def test_convolutions_left_to_another_provider_are_reported(colour_model: Path) -> None:
    class HalfFallenBack:
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> object:
            return opened(colour_model, "cpu").get_provider_graph_assignment_info()

    with pytest.raises(ProviderUnavailable, match="1 convolutions are not on CUDA"):
        check_placement(HalfFallenBack(), "cuda")  # type: ignore[arg-type]  # pyright: ignore


def test_two_models_of_one_name(colour_model: Path) -> None:
    with pytest.raises(StartupError, match="same name"):
        load_engine([colour_model, colour_model], OPTIONS)
