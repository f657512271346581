"""The precisions in which a network may run: what the operator asks for, the artifact allows and the device has."""

from mattebox_server.engine.config import (
    ABILITIES,
    ProviderName,
    ProviderUnavailable,
    RequestedPrecision,
    RunningPrecision,
)
from mattebox_server.spec import ModelSpec


def precisions_to_try(
    requested: RequestedPrecision, spec: ModelSpec, provider: ProviderName, native: frozenset[str]
) -> tuple[RunningPrecision, ...]:
    """The precisions in which a network may run, fastest first: for `auto` all of them, else the one asked for.

    Args:
        requested: precision that the operator asks for.
        spec: description of the artifact.
        provider: provider that runs the network.
        native: reduced precisions that the device has: bf16 on CPUs, tf32 on GPUs.

    Raises:
        ProviderUnavailable: the provider, the device or the artifact doesn't have the requested precision.
    """
    possible = _possible(spec, provider, native)
    if requested == "auto":
        return possible
    if requested in possible:
        return (requested,)
    if requested == "bf16" and provider == "openvino" and "bf16" in native and (reason := bf16_refusal(spec)):
        raise ProviderUnavailable(reason)
    raise ProviderUnavailable(
        f"{provider} can't run this {spec.precision} artifact in {requested} here, only in {' or '.join(possible)}"
    )


def bf16_refusal(spec: ModelSpec) -> str | None:
    """The reason why an fp32 network may not run in bf16; None if it may, or is no fp32 network."""
    if spec.precision != "fp32" or (spec.bf16 is not None and spec.bf16.passes):
        return None
    if spec.bf16 is None:
        return "nobody has judged what bf16 costs this network: export it again with --calibration"
    return f"bf16 costs this network too much: {spec.bf16}"


def _possible(spec: ModelSpec, provider: ProviderName, native: frozenset[str]) -> tuple[RunningPrecision, ...]:
    on_gpu = ABILITIES[provider].on_gpu
    if spec.precision == "fp16" and not on_gpu:
        raise ProviderUnavailable("the artifact is fp16, for cuda and tensorrt: export it with --precision fp32")
    if spec.precision != "fp32":
        # Every provider computes an int8 network's numbers. CUDA's has no int8 convolution, so that it gains nothing
        # there, but a GPU that computes them in float is still faster than a CPU.
        return (spec.precision,)
    if provider == "openvino" and "bf16" in native and bf16_refusal(spec) is None:
        return "bf16", "fp32"
    if on_gpu and "tf32" in native:  # TensorRT has no switch for tf32: it uses it wherever the GPU has it
        return ("tf32",) if provider == "tensorrt" else ("tf32", "fp32")
    return ("fp32",)
