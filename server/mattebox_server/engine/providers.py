"""Execution providers: which there are, how each is set up, and why one is not to be had.

Nothing falls back in silence. A provider that is asked for by name loads or stops the server with the reason; `auto`
goes down the ladder and says, for each rung that it leaves out, why.
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

from mattebox_server.engine.artifact import Artifact
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
    openvino_config,
    running_precision,
    tensorrt_options,
)
from mattebox_server.engine.nvidia import Gpu, find_gpu
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
    """What a provider runs on here.

    Args:
        provider: that runs on it.
        name: of the processor or GPU, as its driver calls it.
        versions: of everything that a compiled model depends on, by name.
        native: reduced precisions that it has.
    """

    provider: ProviderName
    name: str
    versions: Mapping[str, str]
    native: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Opened:
    """A session that really runs where it should.

    Args:
        session: onnxruntime's.
        precision: that it computes in.
        compiled: where its compiled model is, or is to be kept once it is proven; None if there is nothing to keep.
    """

    session: ort.InferenceSession
    precision: RunningPrecision
    compiled: CacheEntry | None


@dataclass(frozen=True)
class _Plan:
    """What was decided on a session.

    Args:
        precision: that it computes in.
        fixed: lengths of its input that are known, by their names.
    """

    precision: RunningPrecision
    fixed: Mapping[str, int]


def find_device(provider: ProviderName, device_id: int) -> Device:
    """What the provider would run on.

    Raises:
        ProviderUnavailable: nothing; the message says what is missing and how to install it.
    """
    # Some of its builds tell their maker what is run.
    ort.disable_telemetry_events()  # type: ignore[attr-defined]  # pyright: ignore
    match provider:
        case "cpu":
            return Device(provider, platform.processor() or platform.machine(), {"onnxruntime": ort.__version__})
        case "openvino":
            return _openvino_device()
        case "cuda":
            gpu = _gpu(provider, device_id)
        case "tensorrt":
            gpu = _gpu(provider, device_id)
            _require_tensorrt()
    versions = {"onnxruntime": ort.__version__, "driver": str(gpu.driver), "capability": str(gpu.capability)}
    if provider == "tensorrt":
        versions["tensorrt"] = _version("tensorrt") or "of the system"
    return Device(provider, gpu.name, versions, frozenset({"tf32"} if gpu.has_tf32 else ()))


def best_target() -> Target:
    """What to export for: the first provider of the ladder that this machine and installation have."""
    for provider in LADDER:
        try:
            return TARGETS[find_device(provider, 0).provider]
        except ProviderUnavailable:  # which provider runs is the server's own question, and it tells why
            continue
    raise AssertionError("the CPU is always there")


def create_session(
    artifact: Artifact, device: Device, options: EngineConfig, size: tuple[int, int] | None = None
) -> Opened:
    """A session of an artifact that really runs on the device.

    Args:
        artifact: to run.
        device: to run it on.
        options: of the engine.
        size: height and width of the only photos that it will take; None for all that the spec allows.

    Raises:
        ProviderUnavailable: it would not.
    """
    provider = device.provider
    plan = _Plan(
        running_precision(options.precision, artifact.spec, provider, device.native),
        fixed_lengths(options, provider, size),
    )
    entry = _cache_entry(artifact, device, options, plan)
    try:
        session = _initialise(artifact, device, options, plan, entry)
        check_placement(session, provider)
    except BaseException:
        if entry is not None:
            entry.discard()
        raise
    return Opened(session, plan.precision, entry)


def _initialise(
    artifact: Artifact, device: Device, options: EngineConfig, plan: _Plan, entry: CacheEntry | None
) -> ort.InferenceSession:
    """Compiles, or takes what was compiled before; what the provider can't take is compiled anew."""
    try:
        session = _session(artifact, device, options, plan, entry)
    except ProviderUnavailable:
        raise
    except Exception as error:  # onnxruntime raises its own types, all of them undocumented
        if entry is not None and entry.is_warm:
            entry.reject()
            return _initialise(artifact, device, options, plan, entry)
        raise ProviderUnavailable(f"{_EP_NAMES[device.provider]} doesn't take the network: {error}") from error
    session.disable_fallback()
    return session


def _session(
    artifact: Artifact, device: Device, options: EngineConfig, plan: _Plan, entry: CacheEntry | None
) -> ort.InferenceSession:
    common, cache = session_options(options.threads_per_run, plan.fixed), None if entry is None else entry.folder
    match device.provider:
        case "cpu":
            return ort.InferenceSession(artifact.path, common, providers=[_EP_NAMES["cpu"]])
        case "openvino":
            handle = _openvino_cpu(ort.get_ep_devices())
            common.add_provider_for_devices([handle], openvino_config(plan.precision, options.threads_per_run, cache))
            return ort.InferenceSession(artifact.path, common)
        case "cuda":
            named = [(_EP_NAMES["cuda"], cuda_options(options, plan.precision))]
        case "tensorrt":  # what TensorRT has no layers for (it has for all here) may run on CUDA, never on the CPU
            named = [
                (_EP_NAMES["tensorrt"], tensorrt_options(options, artifact.spec, cache)),
                (_EP_NAMES["cuda"], cuda_options(options, plan.precision)),
            ]
    return ort.InferenceSession(artifact.path, common, providers=named)


def session_options(threads: int, fixed: Mapping[str, int]) -> ort.SessionOptions:
    """Options that every provider shares.

    Args:
        threads: inside one run, on the CPU.
        fixed: lengths of the input that are known, by their names.
    """
    options = ort.SessionOptions()
    for name, length in fixed.items():
        options.add_free_dimension_override_by_name(name, length)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning would win microseconds a run and burn whole cores that decode and blend need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3  # errors; what matters of the warnings is checked by `check_placement`
    return options


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


def cache_facts(
    artifact_sha256: str, device: Device, precision: RunningPrecision, settings: Mapping[str, str]
) -> dict[str, str]:
    """Everything that a compiled model depends on; two that differ in any of it have different entries.

    Args:
        artifact_sha256: of the file: graph, weights and spec.
        device: it is compiled for.
        precision: it computes in.
        settings: the provider's own options, threads and shapes among them, without the cache's place.
    """
    return {
        "artifact": artifact_sha256,
        "provider": device.provider,
        "device": device.name,
        "precision": precision,
        **{f"version of {name}": version for name, version in device.versions.items()},
        **{f"option {name}": value for name, value in settings.items()},
    }


def _cache_entry(artifact: Artifact, device: Device, options: EngineConfig, plan: _Plan) -> CacheEntry | None:
    """The place of the compiled model; None for providers that keep nothing, or if there is to be no cache.

    onnxruntime's CPU and CUDA providers have no such thing: optimising a ResNet-101's graph takes them half a second.
    """
    match device.provider:
        case "openvino":
            settings = openvino_config(plan.precision, options.threads_per_run, None)
        case "tensorrt":
            settings = tensorrt_options(options, artifact.spec, None)
        case "cpu" | "cuda":
            return None
    if options.cache_dir is None:
        return None
    try:
        facts = cache_facts(artifact.sha256(), device, plan.precision, settings | {"fixed": str(dict(plan.fixed))})
        return CacheEntry(options.cache_dir, device.provider, facts)
    except OSError as error:  # a read-only home costs time at every start, not the provider
        log.warning("compiled models can't be kept", folder=str(options.cache_dir), reason=error.strerror)
        return None


def _gpu(provider: ProviderName, device_id: int) -> Gpu:
    if _EP_NAMES[provider] not in ort.get_available_providers():
        raise ProviderUnavailable(f"this onnxruntime has no {_EP_NAMES[provider]}: {_INSTALL_CUDA}")
    gpu = find_gpu(device_id)
    ort.preload_dlls()  # finds the CUDA and cuDNN libraries that the `cuda` extra installs
    return gpu


def _require_tensorrt() -> None:
    if importlib.util.find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")  # loads TensorRT's libraries, so that onnxruntime finds them
    elif importlib.util.find_spec("tensorrt") is None:
        raise ProviderUnavailable("TensorRT's libraries are not installed: pip install tensorrt")


def _openvino_device() -> Device:
    _register_openvino()
    found = _openvino_cpu(ort.get_ep_devices())
    metadata = found.ep_metadata
    versions = {"onnxruntime": ort.__version__, _OPENVINO_PACKAGE: _version(_OPENVINO_PACKAGE) or metadata["version"]}
    native = frozenset({"bf16"} if "BF16" in metadata["OPTIMIZATION_CAPABILITIES"].split() else ())
    # The instruction sets belong to it: the same processor may be offered with fewer in a virtual machine.
    name = f"{metadata['FULL_DEVICE_NAME'].strip()}, {metadata['OPTIMIZATION_CAPABILITIES']}"
    return Device("openvino", name, versions, native)


@functools.cache
def _register_openvino() -> None:
    """Loads OpenVINO's plugin into onnxruntime, which keeps it for the process: a second call would be an error."""
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        raise ProviderUnavailable(f"OpenVINO's plugin is not installed: pip install {_OPENVINO_PACKAGE}")
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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
