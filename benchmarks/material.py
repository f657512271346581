"""The networks that the benchmarks run unless a model file is given."""

from pathlib import Path

from onnx import TensorProto, helper

from mattebox_export.arguments import parse_arguments
from mattebox_export.artifact import export
from mattebox_export.catalogue import CATALOGUE
from mattebox_export.fetching import fetch

CACHE = Path(__file__).parent / ".cache"


def shipped_model() -> Path:
    """Returns U²-Net-p as `mattebox-export u2netp` makes it on this machine.

    It is exported anew, as all models here, because a cached file may be of an older version.
    """
    return exported("u2netp-shipped", "u2netp")


def light_model() -> Path:
    """Returns U²-Net-p in fp32 for the CPU provider."""
    return exported("u2netp", "u2netp", "--target", "cpu", "--precision", "fp32")


def u2netp_file(folder: Path) -> Path:
    """Returns U²-Net-p's own ONNX file, which is downloaded to a folder if it isn't there."""
    source = CATALOGUE["u2netp"].source
    list(fetch(source, folder, (), offline=False))
    return folder / source.file


def small_model() -> Path:
    """Returns a saliency network of one node, the mean of the colours, for figures that don't depend on the network."""
    CACHE.mkdir(exist_ok=True)
    core = CACHE / "small_core.onnx"
    sides: list[int | str] = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixels", "axes"], ["map"])],
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    core.write_bytes(model.SerializeToString())
    words = ("--core", str(core), "--mean", "0,0,0", "--std", "1,1,1", "--resize", "stretch:64x64", "--target", "cpu")
    return exported("small", "custom", *words)


def exported(name: str, *words: str) -> Path:
    """Returns the artifact that `mattebox-export` makes of these arguments."""
    CACHE.mkdir(exist_ok=True)
    artifact = CACHE / f"{name}.onnx"
    arguments = parse_arguments([*words, "-o", str(artifact)])
    if isinstance(arguments, Path):
        raise TypeError(words)
    list(export(arguments))
    return artifact
