"""Unusual cores: they are exported, or refused with a reason before anything is written."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import networks
from conftest import run_export
from mattebox_export.errors import ExportError

LABELS = ",".join(networks.COLOUR_LABELS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--labels", "a,b,c,d"], "background"),
        (["--labels", "background,b,c"], "4 channels, but there are 3 labels"),
        ([], "one channel, this one gives 4"),
        (["--labels", LABELS, "--name", "white space"], "name"),
    ],
)
def test_cores_that_do_not_fit(folder: Path, options: list[str], says: str) -> None:
    core = networks.save_colour_core(folder / "core.onnx")
    with pytest.raises(ExportError, match=says):
        run_export("custom", "--core", core, "-o", folder / "h.onnx", *options)


def test_a_fixed_core_takes_its_own_size_only(folder: Path) -> None:
    core = networks.save_colour_core(folder / "core.onnx", 32)
    for policy in ("short_side:32", "stretch:64x64"):
        with pytest.raises(ExportError, match="32x32 only"):
            run_export("custom", "--core", core, "--labels", LABELS, "--resize", policy, "-o", folder / "i.onnx")


def test_files_that_are_no_cores(folder: Path) -> None:
    (folder / "text.onnx").write_text("hello")
    for name, says in (("text.onnx", "not a whole ONNX file"), ("nowhere.onnx", "No such file")):
        with pytest.raises(ExportError, match=says):
            run_export("custom", "--core", folder / name, "--labels", LABELS, "-o", folder / "j.onnx")


def test_cores_of_another_rank(folder: Path) -> None:
    shape: list[str | int] = ["batch", 3]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "flat",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, shape)],
    )
    (folder / "flat.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ExportError, match="2 dimensions"):
        run_export("custom", "--core", folder / "flat.onnx", "-o", folder / "k.onnx")


def odd_core(path: Path, *shape: int | str, dtype: int = onnx.TensorProto.FLOAT, opsets: bool = True) -> Path:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "odd", [value("x", dtype, shape)], [value("y", dtype, shape)]
    )
    model = onnx.helper.make_model(graph)
    if not opsets:
        del model.opset_import[:]
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (("n", 32, 32, 4), r"3 channels, \(N, 3, H, W\)"),
        (("n", 1, 32, 32), r"3 channels, \(N, 3, H, W\)"),
        (("n", 3, 32, 3), "Say it by --layout nchw or nhwc"),
        ((4, 3, 32, 32), "batch must be free or 1, not 4"),
        (("n", 3, 32, "w"), "both be fixed or both be free"),
    ],
)
def test_layouts_that_are_none(folder: Path, shape: tuple[int | str, ...], says: str) -> None:
    core = odd_core(folder / "odd.onnx", *shape)
    with pytest.raises(ExportError, match=says):
        run_export("custom", "--core", core, "--labels", "background,b,c", "-o", folder / "m.onnx")


def test_cores_that_are_hardly_any(folder: Path) -> None:
    labels = ("--labels", "background,b,c", "-o", folder / "n.onnx")
    (folder / "empty.onnx").write_bytes(b"")
    for core, says in (
        (folder / "empty.onnx", "it is empty"),
        (odd_core(folder / "whole.onnx", "n", 3, 8, 8, dtype=onnx.TensorProto.INT64), "is INT64"),
        (odd_core(folder / "none.onnx", "n", 3, 8, 8, opsets=False), "ONNX Runtime doesn't load|which opset it uses"),
    ):
        with pytest.raises(ExportError, match=says):
            run_export("custom", "--core", core, *labels)


def test_old_files_list_their_weights_as_inputs(folder: Path) -> None:
    model = onnx.load_model_from_string(networks.save_colour_core(folder / "core.onnx").read_bytes())
    model.ir_version = 3
    model.opset_import[0].version = 9
    for weights in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(weights.name, weights.data_type, weights.dims))
    (folder / "old.onnx").write_bytes(model.SerializeToString())
    run_export("custom", "--core", folder / "old.onnx", "--labels", LABELS, "-o", folder / "o.onnx")


def test_a_core_with_the_artifacts_own_names_inside_a_branch(folder: Path) -> None:
    """The core's input is called `classes`, and both branches of an If use it from outside."""
    value = onnx.helper.make_tensor_value_info
    shape: list[str | int] = ["n", 3, 8, 8]

    def branch(op: str) -> onnx.GraphProto:
        out = [value(op, onnx.TensorProto.FLOAT, shape)]
        return onnx.helper.make_graph([onnx.helper.make_node(op, ["classes"], [op])], op, [], out)

    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    choice = onnx.helper.make_node("If", ["yes"], ["keep"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    out = onnx.helper.make_node("Identity", ["keep"], ["foreground"])
    graph = onnx.helper.make_graph(
        [choice, out],
        "branches",
        [value("classes", onnx.TensorProto.FLOAT, shape)],
        [value("foreground", onnx.TensorProto.FLOAT, shape)],
        [yes],
    )
    opset = onnx.helper.make_opsetid("", 17)
    (folder / "if.onnx").write_bytes(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    )
    run_export("custom", "--core", folder / "if.onnx", "--labels", "background,b,c", "-o", folder / "p.onnx")
