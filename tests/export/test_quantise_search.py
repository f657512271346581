"""The search for an int8 network that passes the gate, with NNCF on networks of a few layers."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import TypeVar

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import networks
import quantised
from mattebox_export.errors import ExportError
from mattebox_export.quantise import calibrate as calibrate_module
from mattebox_export.quantise.calibrate import GateFailed, Task, find_int8, measure
from mattebox_export.quantise.choice import calibrate
from mattebox_export.quantise.graph import layers, outer_layers, quantise
from mattebox_export.quantise.table import Int8
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import Fidelity, Target

pytest.importorskip("nncf")

T = TypeVar("T")


def end_of(steps: Generator[str, None, T]) -> tuple[T, list[str]]:
    """What a search returns, and the lines that it gives on its way."""
    lines: list[str] = []
    while True:
        try:
            lines.append(next(steps))
        except StopIteration as end:
            return end.value, lines


def search(task: Task) -> tuple[Int8, list[str]]:
    return end_of(find_int8(task, task.expected()))


def one_layer() -> onnx.ModelProto:
    """A network of one layer, which is the first and the last."""
    weights = numpy_helper.from_array(np.full((1, 3, 1, 1), 1 / 3, np.float32), "kernel")
    return networks.build([helper.make_node("Conv", ["pixels", "kernel"], ["scores"], name="only")], [weights], 1)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_sensitive_layer_is_found_and_stays_in_float(target: Target) -> None:
    task = quantised.task_of(networks.sensitive_network(1), target)
    int8, lines = search(task)
    assert set(int8.float_layers) == {"first", "choose0", "last"}
    assert int8.symmetric == (target == "cuda")
    assert int8.fidelity.passes
    assert int8.fidelity.photos == len(task.photos.judging)
    assert "2 layers in float" in lines[0]
    assert "3 layers in float" in lines[-1]
    assert task.fidelity(quantise(task.core.model, int8), task.expected()) == int8.fidelity
    with_all_in_int8 = int8.model_copy(update={"float_layers": ("first", "last")})
    ranges, _ = measure(task.core, task.photos.calibration, with_all_in_int8.float_layers, int8.symmetric)
    worse = quantise(task.core.model, with_all_in_int8.model_copy(update={"ranges": ranges}))
    assert not task.fidelity(worse, task.expected()).passes


def test_a_network_that_int8_ruins_fails_the_gate() -> None:
    """Two of its six layers are sensitive, but only a quarter may stay in float."""
    task = quantised.task_of(networks.sensitive_network(2))
    with pytest.raises(GateFailed, match=r"int8 is too far from fp32: [3-9]\d\.\d\d grey levels .*\(at most 2\)"):
        search(task)


def test_a_network_of_outer_layers_has_nothing_to_be_int8() -> None:
    task = quantised.task_of(one_layer())
    assert len(outer_layers(one_layer())) == len(layers(one_layer()))
    with pytest.raises(GateFailed, match="no layer can be int8"):
        search(task)


def test_random_weights_take_the_first_form() -> None:
    task = quantised.task_of(networks.sensitive_network(2), trained=False)
    int8, lines = search(task)
    assert set(int8.float_layers) == {"first", "last"}
    assert int8.biases == {}
    assert len(lines) == 1
    assert not int8.fidelity.passes


def test_corrected_biases_are_taken_where_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with its own biases is outside of the gate here, with corrected ones within."""
    task = quantised.task_of(biased_network())

    def judged(*_: Sequence[Pixels]) -> Fidelity:
        return fidelities.pop(0)

    fidelities = [quantised.BAD, quantised.GOOD]
    monkeypatch.setattr(calibrate_module, "compare", judged)
    int8, lines = search(task)
    assert [line.partition(":")[0] for line in lines] == [
        "int8 with 2 layers in float and own biases",
        "int8 with 2 layers in float and corrected biases",
    ]
    assert set(int8.biases) == {"middle"}
    assert int8.fidelity == quantised.GOOD
    form = quantise(task.core.model, int8)
    bias = next(tensor for tensor in form.graph.initializer if tensor.name == "middle/bias")
    corrected = int8.bias("middle")
    assert corrected is not None
    assert numpy_helper.to_array(bias).tolist() == corrected.tolist()


def biased_network() -> onnx.ModelProto:
    """Builds three convolutions with random weights, of which the one in the middle has a bias that int8 shifts."""
    rng = np.random.default_rng(0)
    weights = {
        "first_kernel": rng.uniform(0, 1, (4, 3, 1, 1)),
        "middle_kernel": rng.normal(0, 1, (4, 4, 3, 3)),
        "middle_bias": rng.normal(0, 1, 4),
        "last_kernel": rng.normal(0, 1, (1, 4, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "first_kernel"], ["first_values"], name="first"),
        helper.make_node(
            "Conv", ["first_values", "middle_kernel", "middle_bias"], ["sums"], name="middle", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["sums"], ["values"], name="relu"),
        helper.make_node("Conv", ["values", "last_kernel"], ["scores"], name="last"),
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    return networks.build(nodes, tensors, 1)


def test_ranges_are_those_of_the_photos() -> None:
    """NNCF takes the mean of the greatest values that the photos have."""
    task = quantised.task_of(biased_network())
    ranges, _ = measure(task.core, task.photos.calibration, ["first", "last"], symmetric=False)
    assert set(ranges) == {"first_values"}
    kernel = next(numpy_helper.to_array(t) for t in task.core.model.graph.initializer if t.name == "first_kernel")
    rgb = np.stack([photo[..., ::-1] for photo in task.photos.calibration]) / 255
    greatest = (rgb @ kernel[..., 0, 0].T).max(axis=(1, 2, 3)).mean()
    low, high = ranges["first_values"]
    assert low == 0
    assert high == pytest.approx(greatest, rel=0.01)


@pytest.mark.parametrize("precision", ["auto", "int8", "fp32"])
def test_what_a_table_says_of_a_hopeless_network(precision: str) -> None:
    """auto does without int8 and says by how much it failed; int8 by name fails; fp32 doesn't try."""
    task = quantised.task_of(networks.sensitive_network(2))
    if precision == "int8":
        with pytest.raises(GateFailed, match="int8 is too far from fp32"):
            end_of(calibrate(task, precision))
        return
    table, lines = end_of(calibrate(task, precision))
    assert table.int8 is None
    assert lines[0] == f"bf16: {table.bf16}"
    assert (table.network, table.weights_sha256, table.resize) == ("few_nodes", quantised.DIGEST, quantised.RESIZE)
    assert table.source == "discs"
    if precision == "fp32":
        assert len(lines) == 1
    else:
        assert lines[-1].startswith("no int8: int8 is too far from fp32: ")


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_without_nncf_the_message_names_the_extra(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    task = quantised.task_of(networks.sensitive_network(1))
    with pytest.raises(ExportError, match=r"needs NNCF: pip install 'mattebox\[quantize\]'") as caught:
        end_of(calibrate(task, precision))
    assert not isinstance(caught.value, GateFailed)  # auto goes on without int8 only where the gate says so


def test_what_nncf_cant_do_is_an_error_of_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("unsupported")

    monkeypatch.setattr(nncf, "quantize", broken)
    with pytest.raises(ExportError, match="NNCF can't quantise the network: unsupported"):
        search(quantised.task_of(networks.sensitive_network(1)))
