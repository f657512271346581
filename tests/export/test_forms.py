"""The forms of a core: other nodes for each target, but the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import networks
from conftest import run_export
from mattebox_export.atrous import rewrite_atrous
from mattebox_export.errors import ExportError
from mattebox_export.forms import forms_for
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.providers import best_target

RATES = (9, 12, 36)


def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def rewritten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy, rewrite_atrous(copy)


PLAIN = networks.atrous_network(RATES)
TAPS, COUNT = rewritten(PLAIN)


@settings(deadline=None, max_examples=60)
@given(batch=st.integers(1, 3), height=st.integers(1, 80), width=st.integers(1, 80), seed=st.integers(0, 9))
def test_taps_equal_the_convolution_at_every_size(batch: int, height: int, width: int, seed: int) -> None:
    """This holds down to maps of one pixel, smaller than the rate, where no tap may be an empty tensor."""
    image = np.random.default_rng(seed).normal(0, 1, (batch, 3, height, width)).astype(np.float32)
    assert np.abs(run(TAPS, image) - run(PLAIN, image)).max() <= 1e-4


@pytest.mark.parametrize("size", [(9, 9), (9, 10), (10, 9), (12, 36), (36, 37), (37, 12), (1, 80), (80, 1)])
def test_taps_at_the_borders_of_the_rates(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(0, 1, (2, 3, *size)).astype(np.float32)
    assert np.abs(run(TAPS, image) - run(PLAIN, image)).max() <= 1e-4


def test_only_what_can_be_rewritten_is() -> None:
    assert len(RATES) == COUNT
    assert {tuple(node.attribute[0].ints) for node in TAPS.graph.node if node.op_type == "Conv"} == {(1, 1)}
    small = networks.atrous_network((2, 8))
    assert rewritten(small)[1] == 0
    for attribute, value in (("strides", [2, 2]), ("group", 3), ("pads", [3, 3, 3, 3])):
        odd = networks.atrous_network((12,))
        node = odd.graph.node[0]
        kept = [a for a in node.attribute if a.name != attribute]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(attribute, value)])
        assert rewritten(odd)[1] == 0, attribute


def test_taps_run_on_openvino_itself(folder: Path) -> None:
    openvino = pytest.importorskip("openvino")
    (folder / "taps.onnx").write_bytes(TAPS.SerializeToString())
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(folder / "taps.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in ((57, 75), (20, 50), (5, 4)):
        image = np.random.default_rng(0).normal(0, 1, (1, 3, *size)).astype(np.float32)
        assert np.abs(compiled(image)[0] - run(PLAIN, image)).max() <= 1e-4


def test_weights_of_rewritten_convolutions_are_not_kept_twice() -> None:
    (form, about), (plain, _) = forms_for(PLAIN, "openvino", "fp32")
    assert about == "3 atrous convolutions as taps"
    assert plain == PLAIN
    assert not {"kernel0", "kernel1", "kernel2"} & {weights.name for weights in form.graph.initializer}
    assert len(form.SerializeToString()) < 2 * len(PLAIN.SerializeToString()) + 30_000
    assert forms_for(PLAIN, "cpu", "fp32") == [(PLAIN, "unchanged")]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("parts", [(2, 3), (5, 1, 4), (1, 1, 1, 1, 1)])
def test_convolutions_of_joined_channels_are_sums(parts: tuple[int, ...], bias: bool) -> None:
    plain = networks.joined_network(parts, bias)
    ((form, about),) = forms_for(plain, "cpu", "fp32")
    onnx.checker.check_model(form)  # pyright: ignore[reportUnknownMemberType]
    assert about == "1 convolutions of concatenations split"
    assert not [node for node in form.graph.node if node.op_type == "Concat"]
    assert "kernel" not in {weights.name for weights in form.graph.initializer}
    for batch, height, width in ((1, 1, 1), (2, 7, 5), (3, 20, 30)):
        image = np.random.default_rng(0).normal(0, 1, (batch, 3, height, width)).astype(np.float32)
        assert np.abs(run(form, image) - run(plain, image)).max() <= 1e-4


def test_joined_channels_that_somebody_else_needs_stay_joined() -> None:
    for change in ("another use", "an output", "groups", "another axis"):
        model = networks.joined_network((4, 4), bias=True)
        convolution, join = model.graph.node[-1], model.graph.node[-2]
        match change:
            case "another use":
                model.graph.node.append(onnx.helper.make_node("Relu", ["joined"], ["more"]))
            case "an output":
                value = onnx.helper.make_tensor_value_info("joined", onnx.TensorProto.FLOAT, None)
                model.graph.output.append(value)
            case "groups":
                convolution.attribute.append(onnx.helper.make_attribute("group", 2))
            case _:
                join.attribute[0].i = 2
        ((form, about),) = forms_for(model, "cpu", "fp32")
        assert about == "unchanged", change
        assert form == model, change


def test_half_precision_is_written_in_the_graph_and_fp32_goes_in_and_out() -> None:
    ((form, _),) = forms_for(PLAIN, "cuda", "fp16")
    onnx.checker.check_model(form)  # pyright: ignore[reportUnknownMemberType]
    kernels = [weights for weights in form.graph.initializer if len(weights.dims) == 4]
    assert kernels
    assert {weights.data_type for weights in kernels} == {onnx.TensorProto.FLOAT16}
    assert form.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 40, 30)).astype(np.float32)
    exact, half = run(PLAIN, image), run(form, image)
    assert 0 < np.abs(half - exact).max() <= 2e-3 * np.abs(exact).max()


def test_the_artifact_says_what_it_was_made_for(folder: Path) -> None:
    core = networks.save_colour_core(folder / "core.onnx")
    options = ["custom", "--core", core, "--labels", ",".join(networks.COLOUR_LABELS), "-o", folder / "t.onnx"]
    options += ["--mean", "0,0,0", "--std", "1,1,1"]
    lines = run_export(*options)
    assert any(f"form for {best_target()} (the best of this machine" in line for line in lines)
    for target, precision in (("cpu", "fp32"), ("openvino", "fp32"), ("cuda", "fp32"), ("cuda", "fp16")):
        run_export(*options, "--target", target, "--precision", precision)
        spec = read_artifact(folder / "t.onnx").spec
        assert (spec.target, spec.precision) == (target, precision)
        assert spec.expectation is not None


def test_a_half_precision_core_that_overflows_is_refused(folder: Path) -> None:
    """Values beyond 65504 become infinite, which the parity check notices."""
    model = onnx.load_model_from_string(networks.save_colour_core(folder / "core.onnx").read_bytes())
    model.graph.initializer[1].raw_data = np.array([1e5, 0, 0, 0], np.float32).tobytes()
    (folder / "big.onnx").write_bytes(model.SerializeToString())
    options = ["--labels", ",".join(networks.COLOUR_LABELS), "--target", "cuda", "--precision", "fp16"]
    with pytest.raises(ExportError, match="nothing was written"):
        run_export("custom", "--core", folder / "big.onnx", *options, "-o", folder / "overflown.onnx")
    assert not (folder / "overflown.onnx").exists()
