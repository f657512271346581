"""Reads the weights of a network, from torch's files and safetensors, without torch and without executing anything."""

import math
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from mattebox_export.checkpoint_safetensors import is_safetensors, read_safetensors
from mattebox_export.checkpoint_torch import TorchFile, is_legacy, item_bytes, read_legacy, read_zip
from mattebox_export.checkpoint_values import View, printable
from mattebox_export.errors import ExportError

State = dict[str, NDArray[np.generic]]
"""A state dict: arrays by the names of a network's parameters and statistics."""

_PARALLEL = "module."  # torch's DataParallel puts it before every name
_KINDS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (0, b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it: convert it to torch or safetensors"),
    (0, b"\x80", "a pickle that torch.save didn't write: save network.state_dict() by torch.save"),
    (4, b"TFL3", "a TFLite file, which has a graph of its own"),
    (257, b"ustar", "a tar archive, as torch wrote before 0.1.10: save it again with a newer torch"),
)
"""Place and bytes by which files are known that are often taken for weights, and what to do about them."""


def read_checkpoint(path: Path) -> State:
    """Reads a network's weights.

    Args:
        path: a state dict saved by torch of any version, or by safetensors. A state dict under the key "model", as
            torchvision's training script saves it, and names that all start with "module." are understood.

    Returns:
        The state dict. Its arrays look at the bytes of the file in memory and can't be written to; bfloat16 became
        float32.

    Raises:
        ExportError: the file can't be read, is no state dict, is damaged, or wants more than a state dict needs.
    """
    return parse_checkpoint(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Reads a file of weights.

    Raises:
        ExportError: it can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ExportError(f"there is no weights file {path}") from error
    except OSError as error:
        raise ExportError(f"can't read the weights file {path}: {error.strerror}") from error


def parse_checkpoint(data: bytes, path: Path) -> State:
    """Reads weights of a file that is in memory already; result and errors as in `read_checkpoint`.

    Args:
        data: the file.
        path: its name, for the errors.
    """
    try:
        if data.startswith(b"PK"):
            state = _torch_state(read_zip(data), len(data))
        elif is_legacy(data):
            state = _torch_state(read_legacy(data), len(data))
        elif is_safetensors(data):
            state = read_safetensors(data)
        else:
            raise ExportError(f"it is {_kind(data)}")
        if not state:
            raise ExportError("it holds nothing")
    except ExportError as error:
        raise ExportError(f"{path} is not a state dict: {error}") from error
    if all(key.startswith(_PARALLEL) for key in state):
        return {key.removeprefix(_PARALLEL): value for key, value in state.items()}
    return state


def _torch_state(file: TorchFile, left: int) -> State:
    """The tensors of a file, which together have at most `left` bytes."""
    content = file.content
    if isinstance(content, dict) and "model" in content:
        content = cast(dict[object, object], content)["model"]
    if not isinstance(content, dict):
        raise ExportError(f"it holds a {_type(content)}: save network.state_dict()")
    state: State = {}
    for key, value in cast(dict[object, object], content).items():
        if not isinstance(key, str) or not isinstance(value, View):
            raise ExportError(
                f"its {printable(str(key))} is a {_type(value)}: save network.state_dict() and nothing else"
            )
        left -= math.prod(value.shape) * item_bytes(value.storage.dtype)
        if left < 0:
            raise ExportError("its tensors are larger than the file")
        state[key] = file.array(value)
    return state


def _type(value: object) -> str:
    return "tensor" if isinstance(value, View) else type(value).__name__


def _kind(data: bytes) -> str:
    """What a file is that does not hold weights."""
    if not data:
        return "empty"
    if data[:1024].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the download went wrong, or needs a login"
    for place, start, kind in _KINDS:
        if data.startswith(start, place):
            return kind
    if _is_onnx(data):
        return "an ONNX file, which has a graph of its own: mattebox-export custom --core FILE"
    return "neither a file of torch.save nor of safetensors"


def _is_onnx(data: bytes) -> bool:
    try:
        return len(onnx.load_model_from_string(data).graph.node) > 0
    except DecodeError:
        return False
