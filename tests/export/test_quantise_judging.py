"""The gate: its figures and its limits, and bf16 where the processor lacks it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import networks
import quantised
from mattebox_export.quantise import calibrate
from mattebox_export.quantise.calibrate import judge_bf16, loss
from mattebox_export.quantise.judging import compare, foregrounds, in_bf16, overlap
from mattebox_export.wrap import wrap
from mattebox_server.engine.config import ProviderUnavailable
from mattebox_server.engine.providers import find_device
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import Fidelity

maps = arrays.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 127, 128, 200, 255]))


@given(st.lists(st.tuples(maps, maps), min_size=1, max_size=6))
def test_figures_of_the_gate(pairs: list[tuple[Pixels, Pixels]]) -> None:
    found = compare([first for first, _ in pairs], [second for _, second in pairs])
    shares: list[float] = []
    differences: list[int] = []
    for first, second in pairs:
        pixels = list(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
        common = sum(a >= 128 and b >= 128 for a, b in pixels)
        either = sum(a >= 128 or b >= 128 for a, b in pixels)
        shares.append(common / either if either else 1)
        differences += [abs(a - b) for a, b in pixels]
    assert found.photos == len(pairs)
    assert found.mean_levels == pytest.approx(sum(differences) / len(differences), abs=1e-4)
    assert found.median_iou == pytest.approx(np.quantile(shares, 0.5), abs=1e-4)
    assert found.low_iou == pytest.approx(np.quantile(shares, 0.05), abs=1e-4)


def test_overlap_of_subjects_and_of_none() -> None:
    nothing, everything = np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8)
    half = np.array([[127, 128, 255], [0, 0, 128]], np.uint8)
    assert overlap(nothing, nothing) == 1
    assert overlap(nothing, everything) == overlap(everything, nothing) == 0
    assert overlap(half, everything) == 0.5
    assert overlap(half, half) == 1


@pytest.mark.parametrize(
    ("figures", "passes"),
    [
        ((2.0, 0.98, 0.80), True),
        ((0.0, 1.0, 1.0), True),
        ((2.0001, 1.0, 1.0), False),
        ((0.0, 0.9799, 1.0), False),
        ((0.0, 1.0, 0.7999), False),
    ],
)
def test_limits_of_the_gate(figures: tuple[float, float, float], passes: bool) -> None:
    levels, median, low = figures
    fidelity = Fidelity(photos=20, mean_levels=levels, median_iou=median, low_iou=low)
    assert fidelity.passes == passes
    assert (loss(fidelity) <= 1 + 1e-9) == passes


# bf16.


def nearest_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 numbers with 8 significant bits: the nearest ones, and of two equally near ones the even one."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def two_layers(rng: np.random.Generator) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    """1x1 convolutions whose products are exact in float32, though bf16 has too few bits for their factors."""
    weights = {
        "kernel1": rng.integers(-511, 512, (4, 3, 1, 1)) / 8,
        "bias1": rng.integers(1600, 2112, 4) / 8,  # the sums are above 0
        "kernel2": rng.integers(-511, 512, (1, 4, 1, 1)) / 2,
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel1", "bias1"], ["sums"], name="first"),
        helper.make_node("Relu", ["sums"], ["values"], name="relu"),
        helper.make_node("Conv", ["values", "kernel2"], ["scores"], name="second"),
    ]
    singles = {name: value.astype(np.float32) for name, value in weights.items()}
    return networks.build(nodes, [numpy_helper.from_array(w, name) for name, w in singles.items()], 1), singles


@given(st.integers(0, 10**6))
def test_bf16_rounds_the_photo_the_weights_and_the_results(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, weights = two_layers(rng)
    before = model.SerializeToString()
    image = (rng.integers(0, 512, (1, 3, 4, 5)) / 512).astype(np.float32)
    found = quantised.run(in_bf16(model), image)
    assert model.SerializeToString() == before
    kernel1, kernel2 = (nearest_bf16(weights[name])[..., 0, 0] for name in ("kernel1", "kernel2"))
    sums = np.einsum("nchw,kc->nkhw", nearest_bf16(image), kernel1) + weights["bias1"][:, np.newaxis, np.newaxis]
    values = nearest_bf16(np.maximum(sums, 0))
    expected = np.einsum("nchw,kc->nkhw", values.astype(float), kernel2.astype(float))
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def resizing_network(by_floats: bool) -> onnx.ModelProto:
    """Builds a convolution between two halves: its values are brought to the photo's size, which a bf16 hasn't."""
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["low"], name="first", strides=[2, 2]),
        helper.make_node("Shape", ["pixels"], ["shape"], name="shape"),
    ]
    if by_floats:
        nodes += [
            helper.make_node("Shape", ["low"], ["low_shape"], name="low_shape"),
            helper.make_node("Cast", ["low_shape"], ["low_sides"], name="as_float", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["low_sides", "factors"], ["sides"], name="twice"),
            helper.make_node("Floor", ["sides"], ["whole_sides"], name="floor"),
            helper.make_node("Cast", ["whole_sides"], ["sizes"], name="as_sizes", to=TensorProto.INT64),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["shape"], ["sizes"], name="sizes"))
    nodes += [
        helper.make_node("Resize", ["low", "", "", "sizes"], ["large"], name="enlarge", mode="nearest"),
        helper.make_node("Conv", ["large", "kernel"], ["scores"], name="last"),
    ]
    weights = {"kernel": np.eye(3, dtype=np.float32)[..., None, None], "factors": np.array([1, 1, 2, 2], np.float32)}
    return networks.build(nodes, [numpy_helper.from_array(w, name) for name, w in weights.items()], 3)


@pytest.mark.parametrize("by_floats", [False, True])
def test_bf16_leaves_sizes_alone(by_floats: bool) -> None:
    """518 would be 520 in bf16, in whose range only every fourth number is one."""
    model = resizing_network(by_floats)
    image = np.random.default_rng(0).uniform(0, 1, (1, 3, 518, 6)).astype(np.float32)
    found, exact = quantised.run(in_bf16(model), image), quantised.run(model, image)
    assert found.shape == exact.shape == (1, 3, 518, 6)
    assert 0 < np.abs(found - exact).max() <= 2**-8


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_is_judged_by_the_processor_or_by_rounding(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways give a network that loses little nearly the same figures."""
    task = quantised.task_of(networks.sensitive_network(1))
    if has_bf16:
        try:
            device = find_device("openvino")
        except ProviderUnavailable as error:
            pytest.skip(str(error))
        if "bf16" not in device.native:
            pytest.skip(f"{device.name} has no bf16")
    else:

        def absent(_: str) -> None:
            raise ProviderUnavailable("not installed")

        monkeypatch.setattr(calibrate, "find_device", absent)
    fidelity = judge_bf16(task, task.expected())
    assert fidelity.photos == 6
    assert 0 < fidelity.mean_levels < 1
    assert fidelity.passes


def test_foregrounds_keep_every_class_but_the_background() -> None:
    """The same foreground as of the network's own logits in numpy."""
    model = networks.build(
        [helper.make_node("Conv", ["pixels", "kernel", "bias"], ["scores"], name="only")],
        [
            numpy_helper.from_array(networks.COLOUR_WEIGHTS[..., None, None], "kernel"),
            numpy_helper.from_array(networks.COLOUR_BIAS, "bias"),
        ],
        4,
    )
    spec = quantised.saliency_spec().model_copy(update={"kind": "semantic", "labels": networks.COLOUR_LABELS})
    core = quantised.core_of(model)
    photos = quantised.discs(2)
    found = foregrounds(wrap(core, spec), spec, photos)
    for photo, foreground in zip(photos, found, strict=True):
        rgb = (photo[..., ::-1] / 255).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
        powers = np.exp(networks.colour_network(rgb)[0].astype(float))
        assert np.abs(foreground - 255 * (1 - powers[0] / powers.sum(0))).max() <= 1
