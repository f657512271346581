"""The execution providers of onnxruntime: how each is set up, and why one can't be used on this machine.

Mattebox never changes to another provider without a word. A provider that is asked for by name loads, or the server
stops with the reason. `auto` tries the providers of `LADDER` in turn, and the log says why each one was left out.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnxruntime as ort
import structlog

from mattebox_server.engine.artifact import Artifact, file_sha256
from mattebox_server.engine.cache import CacheEntry
from mattebox_server.engine.config import (
    LADDER,
    TARGETS,
    EngineConfig,
    ProviderName,
    ProviderUnavailable,
    RunningPrecision,
    cuda_options,
    fixed_lengths,
    provider_options,
    running_precision,
)
from mattebox_server.engine.nvidia import find_gpu
from mattebox_server.spec import Target

log = structlog.stdlib.get_logger(__name__)

OPENVINO_EP = "OpenVINOExecutionProvider"
_EP_NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": OPENVINO_EP,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_OPENVINO_PACKAGE = "onnxruntime-ep-openvino"
_INSTALL_CUDA = "pip uninstall onnxruntime; pip install 'mattebox[cuda]'"


@dataclass(frozen=True)
class Device:
    """The processor or GPU of this machine on which a provider runs.

    Args:
        provider: the execution provider.
        name: name of the processor or GPU, as its driver gives it.
        versions: versions of everything that a compiled model depends on, by name.
        native: reduced precisions that the device computes in: bf16 or tf32.
    """

    provider: ProviderName
    name: str
    versions: Mapping[str, str]
    native: frozenset[str] = frozenset()


def find_device(provider: ProviderName) -> Device:
    """Finds the device that a provider would run on.

    Raises:
        ProviderUnavailable: there is none; the message says what is missing and how to install it.
    """
    # Some builds of onnxruntime send usage data to Microsoft.
    ort.disable_telemetry_events()  # type: ignore[attr-defined]  # pyright: ignore
    if provider == "cpu":
        return Device(provider, platform.processor() or platform.machine(), {"onnxruntime": ort.__version__})
    if provider == "openvino":
        return _openvino_device()
    if _EP_NAMES[provider] not in ort.get_available_providers():
        raise ProviderUnavailable(f"this onnxruntime has no {_EP_NAMES[provider]}: {_INSTALL_CUDA}")
    gpu = find_gpu()
    ort.preload_dlls()  # loads the CUDA and cuDNN libraries that the `cuda` extra installs
    versions = {"onnxruntime": ort.__version__, "driver": str(gpu.driver), "capability": str(gpu.capability)}
    if provider == "tensorrt":
        _require_tensorrt()
        versions["tensorrt"] = _version("tensorrt") or "of the system"
    return Device(provider, gpu.name, versions, frozenset({"tf32"} if gpu.has_tf32 else ()))


def best_target() -> Target:
    """The target of an export for this machine: that of the first provider of the ladder which runs here."""
    for provider in LADDER:
        try:
            return TARGETS[find_device(provider).provider]
        except ProviderUnavailable:  # the server logs the reason when it chooses its own provider
            continue
    raise AssertionError("the CPU is always there")


def create_session(
    artifact: Artifact, device: Device, config: EngineConfig
) -> tuple[ort.InferenceSession, RunningPrecision, CacheEntry | None]:
    """Opens an artifact on a device.

    Returns:
        The session, the precision of its runs, and the compiled model's place in the cache (None: nothing to keep).

    Raises:
        ProviderUnavailable: the artifact, or part of it, would not run there.
    """
    precision = running_precision(config.precision, artifact.spec, device.provider, device.native)
    entry = _cache_entry(artifact, device, config, precision)
    try:
        session = _initialise(artifact, device, config, precision, entry)
        check_placement(session, device.provider)
    except BaseException:
        if entry is not None:
            entry.discard()
        raise
    return session, precision, entry


def _initialise(
    artifact: Artifact, device: Device, config: EngineConfig, precision: RunningPrecision, entry: CacheEntry | None
) -> ort.InferenceSession:
    """Compiles the network, or loads it from the cache; a cached one that the provider refuses is compiled anew."""
    try:
        session = _session(artifact, device, config, precision, entry)
    except ProviderUnavailable:
        raise
    except Exception as error:  # onnxruntime raises its own types, all of them undocumented
        if entry is not None and entry.is_warm:
            entry.reject("the provider can't load it")
            return _initialise(artifact, device, config, precision, entry)
        raise ProviderUnavailable(f"{_EP_NAMES[device.provider]} can't load the network: {error}") from error
    session.disable_fallback()
    return session


def _session(
    artifact: Artifact, device: Device, config: EngineConfig, precision: RunningPrecision, entry: CacheEntry | None
) -> ort.InferenceSession:
    provider, cache = device.provider, None if entry is None else entry.folder
    common = session_options(config.threads_per_run, fixed_lengths(config, provider))
    options = provider_options(provider, artifact.spec, config, precision, cache)
    if provider == "openvino":
        common.add_provider_for_devices([_openvino_cpu(ort.get_ep_devices())], options)
        return ort.InferenceSession(artifact.path, common)
    named = [(_EP_NAMES[provider], options)]
    if provider == "tensorrt":  # nodes that TensorRT has no layers for (there are none so far) may run on CUDA
        named.append((_EP_NAMES["cuda"], cuda_options(config, precision)))
    return ort.InferenceSession(artifact.path, common, providers=named)


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


def cache_facts(
    artifact_sha256: str, device: Device, precision: RunningPrecision, settings: Mapping[str, str]
) -> dict[str, str]:
    """Everything that a compiled model depends on, by name: the key of its entry in the cache.

    `settings` are the provider's own options, number of threads and shapes included, folder of the cache excluded.
    """
    return {
        "artifact": artifact_sha256,
        "provider": device.provider,
        "device": device.name,
        "precision": precision,
        **{f"version of {name}": version for name, version in device.versions.items()},
        **{f"option {name}": value for name, value in settings.items()},
    }


def _cache_entry(
    artifact: Artifact, device: Device, config: EngineConfig, precision: RunningPrecision
) -> CacheEntry | None:
    """The place of the compiled model in the cache; None without a cache, or if the provider has nothing to keep.

    The CPU and CUDA providers have nothing to keep: they optimise the graph of a ResNet-101 in half a second.
    """
    if config.cache_dir is None or device.provider in ("cpu", "cuda"):
        return None
    settings = provider_options(device.provider, artifact.spec, config, precision, None)
    settings["fixed"] = str(fixed_lengths(config, device.provider))
    try:
        facts = cache_facts(file_sha256(artifact.path), device, precision, settings)
        return CacheEntry(config.cache_dir, device.provider, facts)
    except OSError as error:  # with a read-only home every start takes longer, but the provider works
        log.warning("compiled models can't be kept", folder=str(config.cache_dir), reason=error.strerror)
        return None


def _require_tensorrt() -> None:
    if importlib.util.find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")  # loads TensorRT's libraries, so that onnxruntime finds them
    elif importlib.util.find_spec("tensorrt") is None:
        raise ProviderUnavailable("TensorRT's libraries are not installed: pip install tensorrt")


def _openvino_device() -> Device:
    _register_openvino()
    metadata = _openvino_cpu(ort.get_ep_devices()).ep_metadata
    versions = {"onnxruntime": ort.__version__, _OPENVINO_PACKAGE: _version(_OPENVINO_PACKAGE) or metadata["version"]}
    native = frozenset({"bf16"} if "BF16" in metadata["OPTIMIZATION_CAPABILITIES"].split() else ())
    # The instruction sets are part of the name: a virtual machine may offer fewer of them on the same processor.
    name = f"{metadata['FULL_DEVICE_NAME'].strip()}, {metadata['OPTIMIZATION_CAPABILITIES']}"
    return Device("openvino", name, versions, native)


@functools.cache
def _register_openvino() -> None:
    """Loads OpenVINO's plugin into onnxruntime. Cached, because onnxruntime refuses to register it twice."""
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        raise ProviderUnavailable(f"OpenVINO's plugin is not installed: pip install {_OPENVINO_PACKAGE}")
    import onnxruntime_ep_openvino  # noqa: PLC0415 - optional, and loads native libraries

    try:
        ort.register_execution_provider_library("mattebox_openvino", onnxruntime_ep_openvino.get_library_path())
    except Exception as error:
        raise ProviderUnavailable(f"OpenVINO's plugin doesn't load: {error}") from error


def _openvino_cpu(devices: Sequence[ort.OrtEpDevice]) -> ort.OrtEpDevice:
    """The CPU device of OpenVINO's plugin, and not its other one, which ends in .AUTO and chooses devices by itself."""
    cpu = ort.OrtHardwareDeviceType.CPU
    for device in devices:
        if device.ep_name == OPENVINO_EP and device.device.type == cpu:
            return device
    vendors = sorted({d.device.vendor for d in devices if d.device.type == cpu})
    raise ProviderUnavailable(f"OpenVINO's plugin runs on Intel's processors only; this one is by {', '.join(vendors)}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
