"""The engine's configuration, and the options of each execution provider that follow from it.

All of this is plain data and pure functions without onnxruntime, so that the options for a GPU are tested without one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mattebox_server.engine.observer import EngineObserver
from mattebox_server.spec import Letterbox, ModelSpec, ShortSide, Stretch, Target

ProviderName = Literal["cpu", "openvino", "cuda", "tensorrt"]
RequestedPrecision = Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"]
RunningPrecision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]

LADDER: tuple[ProviderName, ...] = ("cuda", "openvino", "cpu")
"""The providers that `auto` tries, best first. TensorRT is not among them, as it builds engines for minutes."""


@dataclass(frozen=True)
class Abilities:
    """What the engine needs to know of a provider.

    Args:
        target: target that a model should be exported for.
        on_gpu: whether it runs on a GPU, which gains by batches.
        keeps: whether its compiled models are worth a place in the cache.
        warms_up: whether the first run of each shape takes longer, as it chooses or compiles kernels.
        is_tried: whether `auto` lets another process compile a network first, because the provider may crash.
    """

    target: Target
    on_gpu: bool = False
    keeps: bool = False
    warms_up: bool = True
    is_tried: bool = False


ABILITIES: dict[ProviderName, Abilities] = {
    "cpu": Abilities("cpu", warms_up=False),
    "openvino": Abilities("openvino", keeps=True, is_tried=True),
    "cuda": Abilities("cuda", on_gpu=True),
    "tensorrt": Abilities("cuda", on_gpu=True, keeps=True),
}

_GPU_MAX_BATCH = 8
_TUNED_ASPECT = 4 / 3  # the aspect of photos that TensorRT tunes its kernels for
TENSORRT_MAX_ASPECT = 2


class ProviderUnavailable(Exception):
    """A provider can't run a network on this machine; the message says why."""


@dataclass(frozen=True)
class EngineConfig:
    """How the operator wants the engine to run.

    Args:
        provider: execution provider; auto means the first of `LADDER` that works.
        precision: numeric precision; auto means the fastest that the device has and the artifact allows.
        threads: number of CPU threads for all runs together.
        gpu_memory_bytes: largest number of bytes that one session's arena may take on a GPU; None means no limit.
        cache_dir: folder of compiled models; None means no cache.
        sessions: number of runs that go on at once, and so of sessions of each network.
        max_batch: largest number of photos in one run; None means 1 on CPUs, which gain nothing by more, and 8 on GPUs.
        observer: gets a report of each phase of a start, and of each run.
    """

    provider: ProviderName | Literal["auto"] = "auto"
    precision: RequestedPrecision = "auto"
    threads: int = 1
    gpu_memory_bytes: int | None = None
    cache_dir: Path | None = None
    sessions: int = 1
    max_batch: int | None = None
    observer: EngineObserver = field(default_factory=EngineObserver)

    @property
    def threads_per_run(self) -> int:
        """Number of CPU threads inside one run: the runs that go on at once share all threads."""
        return max(1, self.threads // self.sessions)

    def max_batch_on(self, provider: ProviderName) -> int:
        """Largest number of photos in one run on a provider."""
        return self.max_batch or (_GPU_MAX_BATCH if ABILITIES[provider].on_gpu else 1)


def openvino_options(precision: RunningPrecision, threads: int) -> dict[str, str]:
    """Options of OpenVINO for one session; `threads` is the number of threads in a run."""
    return {
        # Always set, because OpenVINO would choose bf16 or f16 by itself where the CPU has it. An int8 network's nodes
        # that are left in float run in f32, because bf16 would cost it what its gate was passed with.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",  # one run at a time gets all threads; more streams would each get a share
        # Threads that are bound to cores can't move out of the way of those of pixels, and are no faster otherwise.
        "ENABLE_CPU_PINNING": "NO",
    }


def cuda_options(config: EngineConfig, precision: RunningPrecision) -> dict[str, str]:
    """Options of onnxruntime's CUDA provider for one session."""
    found = {
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE costs hundreds of ms for every new shape
        "cudnn_conv_use_max_workspace": "1",  # without it cuDNN may not choose its fastest kernels
        "arena_extend_strategy": "kSameAsRequested",  # the arena must not double in size with every new shape
        "prefer_nhwc": "1",  # the layout of tensor cores, without which each convolution transposes
        "use_tf32": "1" if precision == "tf32" else "0",  # on by default, even where fp32 is asked for
        "do_copy_in_default_stream": "1",  # one stream for copies and kernels, for which the session waits
    }
    if config.gpu_memory_bytes is not None:
        found["gpu_mem_limit"] = str(config.gpu_memory_bytes)
    return found


def tensorrt_options(config: EngineConfig, spec: ModelSpec, cache: Path | None) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider for one session.

    There is none for fp16, because TensorRT 11 dropped the flag: the graph itself is in fp16.
    """
    least, best, most = profile_shapes(spec, config.max_batch_on("tensorrt"))
    found = {
        # The shapes of every dynamic input, so that TensorRT never builds an engine during a request.
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": best,
        "trt_profile_max_shapes": most,
        "trt_builder_optimization_level": "3",  # TensorRT's default, set because with 5 a build takes many minutes
    }
    if config.gpu_memory_bytes is not None:
        found["trt_max_workspace_size"] = str(config.gpu_memory_bytes)
    if cache is not None:
        found |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",  # makes the next build faster, even with other options or weights
            "trt_timing_cache_path": str(cache),
        }
    return found


def provider_options(
    provider: ProviderName, spec: ModelSpec, config: EngineConfig, precision: RunningPrecision, cache: Path | None
) -> dict[str, str]:
    """Options of a provider for one session; `cache` is the folder of its compiled model, None means no cache."""
    match provider:
        case "cpu":
            return {}
        case "openvino":
            return openvino_options(precision, config.threads_per_run)
        case "cuda":
            return cuda_options(config, precision)
        case "tensorrt":
            return tensorrt_options(config, spec, cache)


def fixed_lengths(config: EngineConfig, provider: ProviderName) -> dict[str, int]:
    """Lengths of the network's input that are known before any photo comes, by their names in the artifact.

    CPUs gain by a batch that is known to be 1: a run of U2-Net-p takes 2 % less time with onnxruntime's CPU provider,
    and OpenVINO takes 40 MB less, because it can plan its memory.
    """
    return {"batch": 1} if not ABILITIES[provider].on_gpu and config.max_batch_on(provider) == 1 else {}


def input_bounds(spec: ModelSpec, provider: ProviderName) -> tuple[int, int] | None:
    """The shortest and longest side, in pixels, of the images that a session takes; None if it takes all of the spec's.

    TensorRT plans its memory for the largest shape of its profile. So its engine takes aspects up to 2:1 only, instead
    of all panoramas that the spec allows.
    """
    if provider != "tensorrt" or not isinstance(spec.resize, ShortSide):
        return None
    short = spec.resize.short_side_px
    return short, min(short * TENSORRT_MAX_ASPECT, spec.resize.max_long_side_px)


def profile_shapes(spec: ModelSpec, max_batch: int) -> tuple[str, str, str]:
    """TensorRT's minimal, optimal and maximal shapes of all inputs, such as `image:1x450x450x3,keep:1x21`."""
    bounds = input_bounds(spec, "tensorrt")
    match spec.resize:
        case ShortSide(short_side_px=short):
            low, high = bounds or (short, short)
            sizes = (low, low), (short, round(short * _TUNED_ASPECT)), (high, high)
        case Stretch(width_px=width, height_px=height) | Letterbox(width_px=width, height_px=height):
            sizes = ((height, width),) * 3
    keep = len(spec.labels) if spec.kind == "semantic" else 0
    least, best, most = (
        f"image:{batch}x{height}x{width}x3" + (f",keep:{batch}x{keep}" if keep else "")
        for batch, (height, width) in zip((1, 1, max_batch), sizes, strict=True)
    )
    return least, best, most
