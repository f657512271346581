"""How the engine is asked to run, and what that means for each execution provider. Knows no onnxruntime.

Everything here is plain data and pure functions, so that what a GPU is told can be tested without one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mattebox_server.engine.observer import EngineObserver, Unobserved
from mattebox_server.spec import Letterbox, ModelSpec, ShortSide, Stretch, Target

ProviderName = Literal["cpu", "openvino", "cuda", "tensorrt"]
RequestedPrecision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
RunningPrecision = Literal["fp32", "tf32", "bf16", "fp16"]

LADDER: tuple[ProviderName, ...] = ("cuda", "openvino", "cpu")  # `auto`; tensorrt builds engines, so it is asked for
GPU_PROVIDERS: frozenset[ProviderName] = frozenset({"cuda", "tensorrt"})
TARGETS: dict[ProviderName, Target] = {"cpu": "cpu", "openvino": "openvino", "cuda": "cuda", "tensorrt": "cuda"}
"""The form of graph that each provider wants, see `mattebox_server.spec.Target`."""

_GPU_MAX_BATCH = 8
_OPT_SHAPES = 4 / 3  # the aspect that TensorRT tunes its kernels for
TENSORRT_MAX_ASPECT = 2


class ProviderUnavailable(Exception):
    """The provider can't run here; the message says what is missing."""


@dataclass(frozen=True)
class EngineConfig:
    """What the operator asks for.

    Args:
        provider: to run on; auto is the first of `LADDER` that works.
        precision: to compute in; auto is the fastest that the device has and the artifact allows.
        threads: of all runs together, on a CPU.
        gpu_memory_bytes: most that one session's arena may take on a GPU; None for all there is.
        cache_dir: folder of compiled models; None for no cache.
        sessions: runs that go on at once on the device, and replicas of each network.
        max_batch: photos in one run; None means 1 on CPUs, where larger batches win nothing, and 8 on GPUs.
        observer: gets the phases of starts, and the runs.
    """

    provider: ProviderName | Literal["auto"] = "auto"
    precision: RequestedPrecision = "auto"
    threads: int = 1
    gpu_memory_bytes: int | None = None
    cache_dir: Path | None = None
    sessions: int = 1
    max_batch: int | None = None
    observer: EngineObserver = field(default_factory=Unobserved)

    @property
    def threads_per_run(self) -> int:
        """Runs that go on at once share the threads."""
        return max(1, self.threads // self.sessions)

    def max_batch_on(self, provider: ProviderName) -> int:
        """Photos in one run on that provider."""
        return self.max_batch or (_GPU_MAX_BATCH if provider in GPU_PROVIDERS else 1)


def running_precision(
    requested: RequestedPrecision, spec: ModelSpec, provider: ProviderName, native: frozenset[str]
) -> RunningPrecision:
    """The precision that a network will run in.

    Args:
        requested: by the operator.
        spec: of the artifact.
        provider: that runs it.
        native: reduced precisions that the device has: bf16 on CPUs, tf32 on GPUs.

    Raises:
        ProviderUnavailable: the provider, the device or the artifact can't do that.
    """
    gpu = provider in GPU_PROVIDERS
    if spec.precision == "fp16":
        if not gpu:
            raise ProviderUnavailable("the artifact is fp16, for cuda and tensorrt: export it with --precision fp32")
        possible: tuple[RunningPrecision, ...] = ("fp16",)
    elif provider == "cpu":
        possible = ("fp32",)
    elif provider == "openvino":
        possible = ("bf16", "fp32") if "bf16" in native else ("fp32",)
    elif provider == "cuda":
        possible = ("tf32", "fp32") if "tf32" in native else ("fp32",)
    else:  # TensorRT has no switch for it: where there is tf32, it takes it for fp32 graphs
        possible = ("tf32",) if "tf32" in native else ("fp32",)
    if requested == "auto":
        return possible[0]
    if requested not in possible:
        raise ProviderUnavailable(
            f"{provider} can't run this {spec.precision} artifact in {requested} here, only in {' or '.join(possible)}"
        )
    return requested


def openvino_config(precision: RunningPrecision, threads: int, cache: Path | None) -> dict[str, str]:
    """Options of OpenVINO's plugin for one session.

    Args:
        precision: fp32 or bf16.
        threads: inside one run.
        cache: folder that OpenVINO keeps its compiled model in.
    """
    config: dict[str, str | int] = {
        # Said aloud both ways: on CPUs with AMX or AVX512-BF16 OpenVINO would take bf16 by itself.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        # One run at a time gets all threads; several at once would be several streams with a share each.
        "NUM_STREAMS": 1,
    }
    if cache is not None:
        config["CACHE_DIR"] = str(cache)
    return {"load_config": json.dumps({"CPU": config})}


def cuda_options(config: EngineConfig, precision: RunningPrecision) -> dict[str, str]:
    """Options of onnxruntime's CUDA provider for one session."""
    found = {
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE costs hundreds of ms for every new shape
        "cudnn_conv_use_max_workspace": "1",  # else cuDNN may not take its fastest kernels
        "arena_extend_strategy": "kSameAsRequested",  # the arena must not double on every new shape
        "prefer_nhwc": "1",  # the layout of tensor cores; else each convolution transposes
        "use_tf32": "1" if precision == "tf32" else "0",  # never behind the back of who asks for fp32
        "do_copy_in_default_stream": "1",  # one stream for copies and kernels, which the session waits for
    }
    if config.gpu_memory_bytes is not None:
        found["gpu_mem_limit"] = str(config.gpu_memory_bytes)
    return found


def tensorrt_options(config: EngineConfig, spec: ModelSpec, cache: Path | None) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider for one session.

    fp16 is not among them: it is written in the graph, and TensorRT 11 dropped the flag.
    """
    least, best, most = profile_shapes(spec, config.max_batch_on("tensorrt"))
    found = {
        # Shapes of every dynamic input, so that no engine is ever built inside of a request.
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": best,
        "trt_profile_max_shapes": most,
        "trt_builder_optimization_level": "3",  # TensorRT's own default, said aloud: 5 builds for many minutes
    }
    if config.gpu_memory_bytes is not None:
        found["trt_max_workspace_size"] = str(config.gpu_memory_bytes)
    if cache is not None:
        found |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",  # makes the next build, of other options or weights, faster
            "trt_timing_cache_path": str(cache),
        }
    return found


def fixed_lengths(config: EngineConfig, provider: ProviderName) -> dict[str, int]:
    """Lengths of the network's input that are known before any photo comes, by their names in the artifact.

    CPUs gain by a batch that is known to be 1: a run of U2-Net-p takes 2 % less time.
    """
    return {"batch": 1} if provider not in GPU_PROVIDERS and config.max_batch_on(provider) == 1 else {}


def input_bounds(spec: ModelSpec, provider: ProviderName) -> tuple[int, int] | None:
    """Shortest and longest side, in pixels, that a session can take; None if it takes what the spec allows.

    TensorRT plans its memory for the largest shape of its profile, so that its engine takes aspects up to 2:1 instead
    of the spec's panoramas.
    """
    if provider != "tensorrt" or not isinstance(spec.resize, ShortSide):
        return None
    short = spec.resize.short_side_px
    return short, min(short * TENSORRT_MAX_ASPECT, spec.resize.max_long_side_px)


def profile_shapes(spec: ModelSpec, max_batch: int) -> tuple[str, str, str]:
    """TensorRT's min, opt and max shapes of all inputs, as onnxruntime writes them: `image:1x450x450x3,keep:1x21`."""
    bounds = input_bounds(spec, "tensorrt")
    match spec.resize:
        case ShortSide(short_side_px=short):
            low, high = bounds or (short, short)
            sizes = (low, low), (short, round(short * _OPT_SHAPES)), (high, high)
        case Stretch(width_px=width, height_px=height) | Letterbox(width_px=width, height_px=height):
            sizes = ((height, width),) * 3
    batches = 1, 1, max_batch
    keep = len(spec.labels) if spec.kind == "semantic" else 0
    least, best, most = (
        f"image:{batch}x{height}x{width}x3" + (f",keep:{batch}x{keep}" if keep else "")
        for batch, (height, width) in zip(batches, sizes, strict=True)
    )
    return least, best, most
