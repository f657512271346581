"""Execution providers: which there are, how each is set up, and why one is not to be had.

Nothing falls back in silence. A provider that is asked for by name loads or stops the server with the reason; `auto`
goes down the ladder and says, for each rung that it leaves out, why.
"""

import functools
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnxruntime as ort

ProviderName = Literal["cpu", "openvino", "cuda", "tensorrt"]
LADDER: tuple[ProviderName, ...] = ("cuda", "openvino", "cpu")  # `auto`; tensorrt builds engines, so it is asked for

OPENVINO_EP = "OpenVINOExecutionProvider"
_EP_NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": OPENVINO_EP,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE costs hundreds of ms for every new shape
    "arena_extend_strategy": "kSameAsRequested",  # the arena must not double on every new shape
    "use_tf32": "0",  # an fp32 artifact is answered as fp32
}


class ProviderUnavailable(Exception):
    """The provider can't run here; the message says what is missing."""


@dataclass(frozen=True)
class Threads:
    """Threads inside one run of the network."""

    intra_op: int


def session_options(threads: Threads) -> ort.SessionOptions:
    """Options that every provider shares."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.intra_op
    options.inter_op_num_threads = 1
    # Spinning would win microseconds a run and burn whole cores that decode and blend need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3  # errors; what matters of the warnings is checked by `check_placement`
    return options


def create_session(model: bytes, provider: ProviderName, threads: Threads) -> ort.InferenceSession:
    """A session of an artifact's bytes that really runs on `provider`.

    Raises:
        ProviderUnavailable: it would not.
    """
    options = session_options(threads)
    try:
        match provider:
            case "cpu":
                session = ort.InferenceSession(model, options, providers=[_EP_NAMES["cpu"]])
            case "openvino":
                session = _openvino_session(model, options, threads)
            case "cuda":
                session = _cuda_session(model, options)
            case "tensorrt":
                raise ProviderUnavailable("TensorRT is not supported by this version; take cuda")
    except ProviderUnavailable:
        raise
    except Exception as error:  # onnxruntime raises its own types, all of them undocumented
        raise ProviderUnavailable(f"{_EP_NAMES[provider]} doesn't take the network: {error}") from error
    session.disable_fallback()
    check_placement(session, provider)
    return session


def check_placement(session: ort.InferenceSession, provider: ProviderName) -> None:
    """Raises ProviderUnavailable unless the provider was loaded and has the network's nodes.

    A provider that leaves nodes to the CPU is a half-silent fallback: convolutions are what a network spends its time
    on, so not one of them may lie elsewhere.
    """
    wanted = _EP_NAMES[provider]
    if wanted not in session.get_providers():
        raise ProviderUnavailable(f"onnxruntime loaded {session.get_providers()} instead of {wanted}")
    strays = [
        f"{node.op_type} on {subgraph.ep_name}"
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
        if subgraph.ep_name != wanted and node.op_type == "Conv"
    ]
    if strays:
        raise ProviderUnavailable(f"{len(strays)} convolutions are not on {wanted}: {', '.join(sorted(set(strays)))}")


def _cuda_session(model: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    name = _EP_NAMES["cuda"]
    if name not in ort.get_available_providers():
        raise ProviderUnavailable("this onnxruntime has no CUDA: pip uninstall onnxruntime; pip install mattebox[cuda]")
    ort.preload_dlls()  # finds the CUDA and cuDNN libraries that the `cuda` extra installs
    return ort.InferenceSession(model, options, providers=[(name, _CUDA_OPTIONS)])


def _openvino_session(model: bytes, options: ort.SessionOptions, threads: Threads) -> ort.InferenceSession:
    _register_openvino()
    device = _openvino_cpu(ort.get_ep_devices())
    # f32, said aloud: on CPUs with AMX or AVX512-BF16 OpenVINO would take bf16 by itself.
    config = {"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads.intra_op}}
    options.add_provider_for_devices([device], {"load_config": json.dumps(config)})
    return ort.InferenceSession(model, options)


@functools.cache
def _register_openvino() -> None:
    """Loads OpenVINO's plugin into onnxruntime, which keeps it for the process: a second call would be an error."""
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        raise ProviderUnavailable("OpenVINO's plugin is not installed: pip install onnxruntime-ep-openvino")
    import onnxruntime_ep_openvino  # noqa: PLC0415 - optional, and loads native libraries

    try:
        ort.register_execution_provider_library("mattebox_openvino", onnxruntime_ep_openvino.get_library_path())
    except Exception as error:
        raise ProviderUnavailable(f"OpenVINO's plugin doesn't load: {error}") from error


def _openvino_cpu(devices: Sequence[ort.OrtEpDevice]) -> ort.OrtEpDevice:
    """The plain OpenVINO CPU device; beside it stands a twin that ends in .AUTO and picks devices by itself."""
    cpu = ort.OrtHardwareDeviceType.CPU
    for device in devices:
        if device.ep_name == OPENVINO_EP and device.device.type == cpu:
            return device
    vendors = sorted({d.device.vendor for d in devices if d.device.type == cpu})
    raise ProviderUnavailable(f"OpenVINO's plugin offers no CPU device here: it serves Intel's, this is {vendors}")
