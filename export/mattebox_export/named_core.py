"""The cores of the networks that are known by name."""

from dataclasses import replace
from pathlib import Path

import onnx

from mattebox_export.catalogue import Entry
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.onnx_core import file_core
from mattebox_export.ordering import drop_dead_nodes, sort_nodes
from mattebox_export.skeleton_core import skeleton_core
from mattebox_export.tflite.importer import tflite_core


def named_core(entry: Entry, path: Path) -> Core:
    """Builds the core of a network.

    Args:
        entry: the network's entry in the catalogue.
        path: the file of its weights.

    Raises:
        ExportError: the file can't be read, or doesn't hold this network.
    """
    if entry.form == "torchvision":
        return skeleton_core(entry.name, path)
    if entry.form == "tflite":
        return tflite_core(_read(path), entry.normalisation, entry.activation)
    core = file_core(path, entry.normalisation, entry.activation)
    return replace(core, model=_first_output(core.model, entry.frees_batch))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"can't read {path}: {error.strerror}") from error


def _first_output(model: onnx.ModelProto, frees_batch: bool) -> onnx.ModelProto:
    """A copy with the first output alone, which fuses the others, and with a free batch where the network takes it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[1:]
    sort_nodes(copy.graph)
    drop_dead_nodes(copy.graph)
    if frees_batch:
        for value in (copy.graph.input[0], copy.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        del copy.graph.value_info[:]  # shapes that were inferred for batch 1
    return copy
