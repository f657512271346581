"""Reads an ONNX file as people have them: with its weights inside or beside it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model

from mattebox_export.errors import ExportError
from mattebox_server.engine.formats import foreign_format
from mattebox_server.spec import METADATA_KEY

_LARGEST_BYTES = 2**31 - 1  # of a protobuf message, which an ONNX file is
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class OnnxFile:
    """A network as its file has it.

    Args:
        model: the graph with all weights.
        sha256: digest of the file, and of the files with weights beside it, in the order of their names.
    """

    model: onnx.ModelProto
    sha256: str


def read_onnx(path: Path) -> OnnxFile:
    """Reads an ONNX file and its weights.

    Raises:
        ExportError: it can't be read, or it is something else; the message says what.
    """
    try:
        if (foreign := foreign_format(path)) is not None:
            raise ExportError(f"{path} is no ONNX file, it is {foreign}")
        model = onnx.load(path, load_external_data=False)  # pyright: ignore[reportUnknownMemberType]
    except OSError as error:
        raise ExportError(f"can't read the core {path}: {error.strerror}") from error
    except ExportError:
        raise
    except Exception as error:  # protobuf's own types
        raise ExportError(f"{path} is not a whole ONNX file, fetch or export it again: {error}") from error
    if not model.graph.node:
        raise ExportError(f"{path} is not a whole ONNX file: it has no nodes, fetch or export it again")
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise ExportError(f"{path} is a Mattebox model already: mattebox-server --model {path}")
    beside = _files_beside(model, path)
    if sum(file.stat().st_size for file in (path, *beside)) > _LARGEST_BYTES:
        raise ExportError(f"{path} has more than 2 GB of weights, and a model is one ONNX file, which can't have them")
    try:
        if beside:
            load_external_data_for_model(model, str(path.parent))
        return OnnxFile(model, _digest([path, *beside]))
    except Exception as error:  # onnx's own types, and OSError
        raise ExportError(f"can't read the weights beside {path}: {error}") from error


def _files_beside(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files with weights that belong to a model, in the order of their names."""
    constants = (each.t for node in model.graph.node for each in node.attribute if each.HasField("t"))
    outside = (tensor for tensor in (*model.graph.initializer, *constants) if tensor.data_location == tensor.EXTERNAL)
    names = sorted({ExternalDataInfo(tensor).location for tensor in outside})
    folder = path.parent.resolve()
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder):
            raise ExportError(f"{path} keeps weights in {name}, outside its own folder: refused")
        if not (folder / name).is_file():
            raise ExportError(f"{path} keeps its weights in the file {name}, which must lie beside it and is missing")
    return [folder / name for name in names]


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
