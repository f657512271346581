"""The options of each provider and the key of a compiled model, neither of which needs the device."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import spec
from mattebox_server.engine.config import (
    EngineConfig,
    ProviderName,
    ProviderUnavailable,
    cuda_options,
    input_bounds,
    openvino_options,
    profile_shapes,
    tensorrt_options,
)
from mattebox_server.engine.nvidia import Gpu, find_gpu
from mattebox_server.engine.plan import Device, cache_facts
from mattebox_server.engine.precisions import bf16_refusal, precisions_to_try
from mattebox_server.spec import Fidelity, Letterbox, ModelSpec, Precision, ShortSide, Stretch

OPTIONS = EngineConfig(max_batch=4)
RECIPE = ShortSide(short_side_px=450, max_long_side_px=1800)


GOOD = Fidelity(photos=9, mean_levels=1.0, median_iou=0.99, low_iou=0.9)
POOR = GOOD.model_copy(update={"mean_levels": 4.2})


def model(
    resize: ShortSide | Stretch | Letterbox = RECIPE, precision: Precision = "fp32", bf16: Fidelity | None = GOOD
) -> ModelSpec:
    return spec("m").model_copy(update={"resize": resize, "precision": precision, "bf16": bf16})


@pytest.mark.parametrize(
    ("provider", "artifact", "native", "possible"),
    [
        ("cpu", "fp32", "", ["fp32"]),
        ("cpu", "fp32", "bf16", ["fp32"]),
        ("cpu", "int8", "bf16", ["int8"]),
        ("openvino", "fp32", "", ["fp32"]),
        ("openvino", "fp32", "bf16", ["bf16", "fp32"]),
        ("openvino", "int8", "bf16", ["int8"]),
        ("cuda", "fp32", "", ["fp32"]),
        ("cuda", "fp32", "tf32", ["tf32", "fp32"]),
        ("cuda", "fp16", "tf32", ["fp16"]),
        ("cuda", "int8", "tf32", ["int8"]),
        ("tensorrt", "fp32", "", ["fp32"]),
        ("tensorrt", "fp32", "tf32", ["tf32"]),
        ("tensorrt", "fp16", "tf32", ["fp16"]),
        ("tensorrt", "int8", "tf32", ["int8"]),
        ("cpu", "fp16", "", []),
        ("openvino", "fp16", "bf16", []),
    ],
)
def test_precision(provider: ProviderName, artifact: Precision, native: str, possible: list[str]) -> None:
    """`auto` tries every possible precision, fastest first; one that is not possible is refused by name."""
    subject, has = model(precision=artifact), frozenset(native.split())
    for requested in ("fp32", "tf32", "bf16", "fp16", "int8"):
        if requested in possible:
            assert precisions_to_try(requested, subject, provider, has) == (requested,)
        else:
            with pytest.raises(ProviderUnavailable, match=requested if possible else "export it with --precision fp32"):
                precisions_to_try(requested, subject, provider, has)
    if possible:
        assert precisions_to_try("auto", subject, provider, has) == tuple(possible)


@pytest.mark.parametrize(
    ("judged", "reason"), [(None, "nobody has judged .* bf16 .* --calibration"), (POOR, "bf16 .*: 4.20 grey levels")]
)
def test_bf16_must_have_passed_its_gate(judged: Fidelity | None, reason: str) -> None:
    subject, has = model(bf16=judged), frozenset({"bf16"})
    assert precisions_to_try("auto", subject, "openvino", has) == ("fp32",)
    assert re.match(reason, bf16_refusal(subject) or "")
    with pytest.raises(ProviderUnavailable, match=reason):
        precisions_to_try("bf16", subject, "openvino", has)
    with pytest.raises(
        ProviderUnavailable, match="in bf16 here, only in fp32"
    ):  # where the device has none, that is why
        precisions_to_try("bf16", subject, "openvino", frozenset())
    assert bf16_refusal(model()) is None
    assert bf16_refusal(model(precision="int8", bf16=None)) is None


def test_openvino_is_told_the_precision_both_ways() -> None:
    found = openvino_options("fp32", 3)
    assert (found["INFERENCE_PRECISION_HINT"], found["INFERENCE_NUM_THREADS"], found["NUM_STREAMS"]) == (
        "f32",
        "3",
        "1",
    )
    assert openvino_options("bf16", 1)["INFERENCE_PRECISION_HINT"] == "bf16"
    assert openvino_options("int8", 1)["INFERENCE_PRECISION_HINT"] == "f32"  # what is left in float


def test_cuda() -> None:
    found = cuda_options(OPTIONS, "fp32")
    assert (found["use_tf32"], found["prefer_nhwc"]) == ("0", "1")
    assert found["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "gpu_mem_limit" not in found
    limited = cuda_options(replace(OPTIONS, gpu_memory_bytes=2**30), "tf32")
    assert (limited["use_tf32"], limited["gpu_mem_limit"]) == ("1", str(2**30))


def test_tensorrt_knows_the_shapes_of_every_input() -> None:
    found = tensorrt_options(OPTIONS, model(), Path("/c"))
    assert found["trt_profile_min_shapes"] == "image:1x450x450x3,keep:1x3"
    assert found["trt_profile_opt_shapes"] == "image:1x450x600x3,keep:1x3"
    assert found["trt_profile_max_shapes"] == "image:4x900x900x3,keep:4x3"
    assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == "/c"
    assert not any("fp16" in name for name in found)  # the graph itself is in fp16
    assert not any("cache" in name for name in tensorrt_options(OPTIONS, model(), None))


def test_profiles_of_fixed_sizes_and_saliency() -> None:
    fixed = model(Letterbox(width_px=512, height_px=384))
    assert profile_shapes(fixed, 8) == (
        "image:1x384x512x3,keep:1x3",
        "image:1x384x512x3,keep:1x3",
        "image:8x384x512x3,keep:8x3",
    )
    saliency = ModelSpec.model_validate(fixed.model_dump() | {"kind": "saliency", "labels": ("subject",)})
    assert profile_shapes(saliency, 2)[2] == "image:2x384x512x3"


def test_tensorrt_takes_aspects_up_to_two() -> None:
    assert input_bounds(model(), "tensorrt") == (450, 900)
    assert input_bounds(model(ShortSide(short_side_px=450, max_long_side_px=700)), "tensorrt") == (450, 700)
    assert input_bounds(model(Stretch(width_px=8, height_px=9)), "tensorrt") is None
    for provider in ("cpu", "openvino", "cuda"):
        assert input_bounds(model(), provider) is None


def test_batches_by_default() -> None:
    assert [EngineConfig().max_batch_on(p) for p in ("cpu", "openvino", "cuda", "tensorrt")] == [1, 1, 8, 8]
    assert EngineConfig(max_batch=3).max_batch_on("cpu") == 3


def test_runs_at_once_share_the_threads() -> None:
    shares = [EngineConfig(threads=8, sessions=sessions).threads_per_run for sessions in (1, 2, 3, 16)]
    assert shares == [8, 4, 2, 1]


def test_the_key_of_a_compiled_model_changes_with_all_that_it_depends_on() -> None:
    device = Device("openvino", "Xeon", {"openvino": "2026.4.1", "driver": "1"}, frozenset({"bf16"}))
    settings = openvino_options("bf16", 2)
    keys = [
        cache_facts("aa", device, "bf16", settings),
        cache_facts("bb", device, "bf16", settings),
        cache_facts("aa", replace(device, name="Xeon Gold"), "bf16", settings),
        cache_facts("aa", replace(device, versions={**device.versions, "openvino": "2026.4.2"}), "bf16", settings),
        cache_facts("aa", replace(device, versions={**device.versions, "driver": "2"}), "bf16", settings),
        cache_facts("aa", replace(device, provider="tensorrt"), "bf16", settings),
        cache_facts("aa", device, "fp32", openvino_options("fp32", 2)),
        cache_facts("aa", device, "bf16", openvino_options("bf16", 4)),
    ]
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)
    assert cache_facts("aa", device, "bf16", settings) == keys[0]
    wide, narrow = (tensorrt_options(replace(OPTIONS, max_batch=batch), model(), None) for batch in (4, 2))
    assert cache_facts("aa", device, "fp32", wide) != cache_facts("aa", device, "fp32", narrow)


def test_no_nvidia_driver_is_said() -> None:
    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver"):
        find_gpu("libno-such-driver.so.1")


def test_tf32_came_with_ampere() -> None:
    assert [Gpu("x", (major, 0), 13000).has_tf32 for major in (7, 8, 9)] == [False, True, True]
