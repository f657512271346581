"""Calibration tables: what they hold, and for which networks they are refused."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import networks
import quantised
from mattebox_export.errors import ExportError
from mattebox_export.normal_form import prepare
from mattebox_export.quantise import choice
from mattebox_export.quantise.choice import Wanted, find_table
from mattebox_export.quantise.graph import name_nodes, quantise
from mattebox_export.quantise.table import CalibrationTable, Int8, encode_bias, packaged_table, read_table
from mattebox_server.spec import Fidelity, ModelSpec, ShortSide, Stretch, Target

OTHER_RESIZE = ShortSide(short_side_px=32, max_long_side_px=128)


def table_of(int8: Int8 | None = None, bf16: Fidelity = quantised.GOOD) -> CalibrationTable:
    return CalibrationTable(
        network="few_nodes",
        weights_sha256=quantised.DIGEST,
        resize=quantised.RESIZE,
        source="12 photos of a folder",
        int8=int8,
        bf16=bf16,
    )


TABLE = table_of(quantised.int8_of({"pixels": (0.0, 1.0), "values": (-0.1, 0.3)}, "first", "last"))


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=1, max_side=9), elements=st.floats(width=32)))
def test_a_bias_is_kept_to_the_bit(bias: NDArray[np.float32]) -> None:
    int8 = quantised.int8_of({}).model_copy(update={"biases": {"layer": encode_bias(bias)}})
    found = int8.bias("layer")
    assert found is not None
    assert found.dtype == np.float32
    assert found.tobytes() == bias.tobytes()
    assert int8.bias("another") is None


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    for written in (TABLE, table_of()):
        (tmp_path / "t.json").write_text(written.model_dump_json(indent=1))
        assert read_table(tmp_path / "t.json", quantised.DIGEST, quantised.RESIZE) == written


def test_a_table_is_for_its_weights_and_its_size_only(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(TABLE.model_dump_json())
    with pytest.raises(ExportError, match=r"other weights: 0{64}, not 1{64}"):
        read_table(path, "1" * 64, quantised.RESIZE)
    with pytest.raises(ExportError, match=r"another input size: .*short_side_px=48.*, not .*short_side_px=32"):
        read_table(path, quantised.DIGEST, OTHER_RESIZE)
    with pytest.raises(ExportError, match="can't read the calibration table"):
        read_table(tmp_path / "nowhere.json", quantised.DIGEST, quantised.RESIZE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"version"', "no table"),
        ('"float_layers":[', ""),
        ('"version":1', '"version":2'),
        ("-0.1", "NaN"),
        ("0.3]", "Infinity]"),
        ('"source"', '"sauce"'),
        (quantised.DIGEST, "0" * 63),
    ],
    ids=["text", "brackets", "version", "nan", "infinity", "field", "digest"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = TABLE.model_dump_json()
    assert old in text
    (tmp_path / "t.json").write_text(text.replace(old, new))
    with pytest.raises(ExportError, match="is not a calibration table"):
        read_table(tmp_path / "t.json", quantised.DIGEST, quantised.RESIZE)


def test_the_packages_tables_are_for_their_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def root(_: str) -> Path:
        return tmp_path

    monkeypatch.setattr(importlib.resources, "files", root)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "few_nodes.json").write_text(TABLE.model_dump_json())
    assert packaged_table("few_nodes", quantised.DIGEST, quantised.RESIZE) == TABLE
    assert packaged_table("few_nodes", "1" * 64, quantised.RESIZE) is None
    assert packaged_table("few_nodes", quantised.DIGEST, OTHER_RESIZE) is None
    assert packaged_table("another", quantised.DIGEST, quantised.RESIZE) is None


def test_the_table_of_u2netp_fits_its_graph_and_passes_the_gate() -> None:
    core = networks.u2netp_core()
    found = packaged_table("u2netp", core.weights_sha256, Stretch(width_px=320, height_px=320))
    assert found is not None
    assert found.int8 is not None
    assert found.int8.fidelity.passes
    form = quantise(name_nodes(prepare(core.model)), found.int8)
    pairs = [node for node in form.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) >= len(found.int8.ranges) > 50
    assert packaged_table("u2netp", "1" * 64, Stretch(width_px=320, height_px=320)) is None


# What is made of a table, by the precision that is asked for.


def found_in(
    path: Path, precision: str, target: Target = "cpu", trained: bool = True
) -> tuple[CalibrationTable | None, list[str]]:
    """The table that an export gets from a file, and the lines that it prints."""
    lines: list[str] = []
    spec: ModelSpec = quantised.saliency_spec(target, trained)
    search = find_table(quantised.core_of(networks.sensitive_network(1)), spec, Wanted(precision, path))
    while True:
        try:
            lines.append(next(search))
        except StopIteration as end:
            return end.value, lines


def failing() -> CalibrationTable:
    assert TABLE.int8 is not None
    return table_of(TABLE.int8.model_copy(update={"fidelity": quantised.BAD}))


@pytest.mark.parametrize(
    ("written", "target", "lack"),
    [
        (table_of(), "cpu", "no int8"),
        (TABLE, "cuda", "no int8 for cuda"),
        (failing(), "openvino", f"only an int8 that is too far from fp32: {quantised.BAD}"),
    ],
    ids=["no int8", "symmetry", "gate"],
)
def test_a_table_without_int8_that_may_be_used(
    tmp_path: Path, written: CalibrationTable, target: Target, lack: str
) -> None:
    """int8 by name is refused; auto says why it does without, and still knows what bf16 costs."""
    path = tmp_path / "t.json"
    path.write_text(written.model_dump_json())
    with pytest.raises(ExportError) as caught:
        found_in(path, "int8", target)
    assert str(caught.value) == f"the calibration table has {lack}: give photos by --calibration FOLDER"
    expected = written.model_copy(update={"int8": None})
    assert found_in(path, "auto", target) == (
        expected,
        [f"calibration table of 12 photos of a folder, which has {lack}"],
    )


def test_a_table_with_int8_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(TABLE.model_dump_json())
    for precision in ("int8", "auto", "fp32"):
        for target in ("cpu", "openvino"):
            assert found_in(path, precision, target) == (TABLE, ["calibration table of 12 photos of a folder"])
    path.write_text(failing().model_dump_json())  # random weights have no quality to lose
    assert found_in(path, "int8", trained=False)[0] == failing()


def test_without_photos_nothing_is_known_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("nothing was to be measured")

    monkeypatch.setattr(choice, "calibrate", measured)
    core = quantised.core_of(networks.sensitive_network(1))
    for spec, precision in (
        (quantised.saliency_spec(), "auto"),
        (quantised.saliency_spec(), "fp32"),
        (quantised.saliency_spec(trained=False), "auto"),
    ):
        search = find_table(core, spec, Wanted(precision, None))
        with pytest.raises(StopIteration) as end:
            next(search)
        assert end.value.value is None


def test_a_table_holds_no_photo() -> None:
    """Nothing but names, ranges, biases and figures."""
    fields: dict[str, Any] = json.loads(TABLE.model_dump_json())
    assert fields.keys() == {"version", "network", "weights_sha256", "resize", "source", "int8", "bf16"}
    assert fields["int8"].keys() == {"symmetric", "ranges", "biases", "float_layers", "fidelity"}
