"""onnxruntime: its CPU provider, CUDA and TensorRT."""

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_server.engine.config import ABILITIES, ProviderName, ProviderUnavailable, cuda_options
from mattebox_server.engine.nvidia import find_gpu
from mattebox_server.engine.plan import Device, Plan
from mattebox_server.engine.processor import instruction_sets, saturates
from mattebox_server.engine.session import Port, Stop
from mattebox_server.imaging.pixels import Pixels

_EP_NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_INSTALL_CUDA = "pip uninstall onnxruntime; pip install 'mattebox[cuda]'"
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_IMAGE = "image"
_BOUND_SHAPES = 8  # number of shapes whose buffers are kept; six aspects make up nearly all photos


def find_device(provider: ProviderName) -> Device:
    """Finds the device that a provider would run on, as `Runtime` describes."""
    # Some builds of onnxruntime send usage data to Microsoft.
    ort.disable_telemetry_events()  # type: ignore[attr-defined]  # pyright: ignore
    if provider == "cpu":
        return Device(provider, f"{platform.machine()} {instruction_sets()}", {"onnxruntime": ort.__version__})
    if _EP_NAMES[provider] not in ort.get_available_providers():
        raise ProviderUnavailable(f"this onnxruntime has no {_EP_NAMES[provider]}: {_INSTALL_CUDA}")
    gpu = find_gpu()
    ort.preload_dlls()  # loads the CUDA and cuDNN libraries that the `cuda` extra installs
    versions = {"onnxruntime": ort.__version__, "driver": str(gpu.driver), "capability": str(gpu.capability)}
    if provider == "tensorrt":
        _require_tensorrt()
        versions["tensorrt"] = _version("tensorrt") or "of the system"
    return Device(provider, gpu.name, versions, frozenset({"tf32"} if gpu.has_tf32 else ()))


def load(plan: Plan, cache: Path | None) -> "OnnxNetwork":
    """Loads a network, as `Runtime` describes."""
    common = session_options(plan.config.threads_per_run, plan.fixed)
    if plan.precision == "int8" and saturates():
        common.add_session_config_entry("session.x64quantprecision", "1")  # slower kernels, which add in 32 bits
    providers = [(_EP_NAMES[plan.provider], plan.options(cache))]
    if plan.provider == "tensorrt":  # nodes that TensorRT has no layers for (there are none so far) may run on CUDA
        providers.append((_EP_NAMES["cuda"], cuda_options(plan.config, plan.precision)))
    session = ort.InferenceSession(plan.artifact.path, common, providers=providers)
    session.disable_fallback()
    check_placement(session, plan.provider)
    return OnnxNetwork(session, "cuda" if ABILITIES[plan.provider].on_gpu else None)


def session_options(threads: int, fixed: Mapping[str, int]) -> ort.SessionOptions:
    """Options that all providers share: the number of threads in a run, and the lengths that `fixed_lengths` gives."""
    options = ort.SessionOptions()
    for name, length in fixed.items():
        options.add_free_dimension_override_by_name(name, length)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin would save microseconds a run, and take whole cores from decoding and blending.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3  # errors; `check_placement` looks for what the warnings would be about
    return options


def check_placement(session: ort.InferenceSession, provider: ProviderName) -> None:
    """Checks that a session runs on its provider: the provider is loaded and has every convolution of the network.

    onnxruntime gives nodes that a provider doesn't take to the CPU. A few small ones cost nothing, but a network spends
    its time on convolutions.

    Raises:
        ProviderUnavailable: the provider isn't loaded, or some convolutions are on another one.
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


class OnnxNetwork:
    """A network on onnxruntime; a `Loaded`.

    Args:
        session: the network's session.
        device: device whose buffers are used, such as "cuda"; None means that the arrays themselves are.
    """

    def __init__(self, session: ort.InferenceSession, device: str | None) -> None:
        self.inputs: Sequence[Port] = [_port(value) for value in session.get_inputs()]
        self.outputs: Sequence[Port] = [_port(value) for value in session.get_outputs()]
        self._buffers: ArrayBuffers | DeviceBuffers | None = (
            ArrayBuffers(session) if device is None else DeviceBuffers(session, device)
        )

    @property
    def is_open(self) -> bool:
        """Whether it isn't closed."""
        return self._buffers is not None

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, Pixels], stop: Stop | None) -> None:
        """Runs the network into given buffers, as `Loaded` describes."""
        if self._buffers is None:
            raise RuntimeError("the network is closed")
        options = ort.RunOptions()
        if stop is not None:
            stop.on_ask(partial(setattr, options, "terminate", True))
        self._buffers.run(feeds, outputs, options)

    def close(self) -> None:
        """Frees what the network takes."""
        self._buffers = None


class ArrayBuffers:
    """Runs a session from arrays into arrays, without a copy."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, Pixels], options: ort.RunOptions) -> None:
        """Runs the network; inputs and outputs are those of `Loaded.run`."""
        binding = self._session.io_binding()
        inputs = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for name, value in outputs.items():
            binding.bind_output(name, "cpu", 0, np.uint8, value.shape, value.ctypes.data)
        self._session.run_with_iobinding(binding, options)


class _Bound(NamedTuple):
    binding: ort.IOBinding
    values: dict[str, ort.OrtValue]  # buffers of inputs and outputs by name


class DeviceBuffers:
    """Runs a session on buffers of the device, which are made once for each shape of a batch and used again.

    Without such buffers onnxruntime would allocate and copy in every run. A run only queues its work on the device's
    stream: the results are there after `synchronize_outputs`.
    """

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device = session, device
        self._bound: dict[tuple[int, ...], _Bound] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, Pixels], options: ort.RunOptions) -> None:
        """Runs the network; inputs and outputs are those of `Loaded.run`."""
        shape = feeds[_IMAGE].shape
        try:
            # The buffers in use go to the end, so that the first are those that were not used for the longest time.
            self._bound[shape] = bound = self._bound.pop(shape, None) or self._bind(feeds, outputs)
            while len(self._bound) > _BOUND_SHAPES:
                del self._bound[next(iter(self._bound))]
            for name, value in feeds.items():
                bound.values[name].update_inplace(np.ascontiguousarray(value))
            self._session.run_with_iobinding(bound.binding, options)
            bound.binding.synchronize_outputs()
            for name, value in outputs.items():
                np.copyto(value, bound.values[name].numpy())
        except BaseException:
            self._bound.clear()  # if the device ran out of memory, the next run needs what these buffers hold
            raise

    def _bind(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, Pixels]) -> _Bound:
        binding = self._session.io_binding()
        inputs = {name: self._buffer(value) for name, value in feeds.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        results = {name: self._buffer(value) for name, value in outputs.items()}
        for name, value in results.items():
            binding.bind_ortvalue_output(name, value)
        return _Bound(binding, inputs | results)

    def _buffer(self, like: NDArray[Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype.type, self._device, 0)


def _port(value: ort.NodeArg) -> Port:
    batch = value.shape[0] if value.shape else None
    return Port(frozenset({value.name}), _DTYPES.get(value.type, value.type), batch if isinstance(batch, int) else None)


def _require_tensorrt() -> None:
    if importlib.util.find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")  # loads TensorRT's libraries, so that onnxruntime finds them
    elif importlib.util.find_spec("tensorrt") is None:
        raise ProviderUnavailable("TensorRT's libraries are not installed: pip install tensorrt")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
