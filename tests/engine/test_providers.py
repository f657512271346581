"""A network runs on the provider that was asked for, or there is a reason why it can't."""

from pathlib import Path

import onnxruntime as ort
import pytest

from altered import altered_server
from conftest import run_export
from mattebox_server.engine.config import EngineConfig, ProviderUnavailable
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.runtime_onnxruntime import check_placement, session_options
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer

HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
OPTIONS = EngineConfig(provider="cpu", threads=1)


def opened(model: Path) -> ort.InferenceSession:
    return ort.InferenceSession(model, session_options(1, {}), providers=["CPUExecutionProvider"])


def test_the_threads_do_not_spin() -> None:
    options = session_options(3, {})
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_asked_for_by_name_loads_or_stops_the_server(colour_model: Path, provider: str) -> None:
    with pytest.raises(StartupError, match="mattebox\\[cuda\\]"):
        LocalServer([colour_model], ["--provider", provider]).__enter__()


@pytest.mark.skipif(HAS_CUDA, reason="a better provider than cpu and openvino is here")
@pytest.mark.parametrize("installed", [True, False])
def test_auto_says_what_it_left_out_and_why(colour_model: Path, tmp_path: Path, installed: bool) -> None:
    missing = () if installed else ("import sys; sys.modules['openvino'] = None",)
    with altered_server([colour_model], ["--cache-dir", str(tmp_path)], *missing) as server:
        left_out = {e["provider"]: e["reason"] for e in server.events if e["event"] == "provider left out"}
        loaded = next(event for event in server.events if event["event"] == "model loaded")
    assert all(left_out.values())
    if installed:
        pytest.importorskip("openvino")
        assert (set(left_out), loaded["provider"]) == ({"cuda"}, "openvino")
    else:
        assert (set(left_out), loaded["provider"]) == ({"cuda", "openvino"}, "cpu")
        assert "pip install openvino" in left_out["openvino"]


def test_openvino_by_name_must_be_installed(colour_model: Path) -> None:
    with pytest.raises(StartupError, match="pip install openvino"):
        altered_server(
            [colour_model], ["--provider", "openvino"], "import sys; sys.modules['openvino'] = None"
        ).__enter__()


def test_placement_is_checked(folder: Path) -> None:
    run_export("u2netp", "-o", folder / "u2netp.onnx")
    session = opened(folder / "u2netp.onnx")
    with pytest.raises(ProviderUnavailable, match="instead of CUDAExecutionProvider"):
        check_placement(session, "cuda")


def test_convolutions_left_to_another_provider_are_reported(colour_model: Path) -> None:
    class HalfFallenBack:
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> object:
            return opened(colour_model).get_provider_graph_assignment_info()

    with pytest.raises(ProviderUnavailable, match="1 convolutions are not on CUDA"):
        check_placement(HalfFallenBack(), "cuda")  # type: ignore[arg-type]  # pyright: ignore


def test_two_models_of_one_name(colour_model: Path) -> None:
    with pytest.raises(StartupError, match="same name"):
        load_engine([colour_model, colour_model], OPTIONS)
