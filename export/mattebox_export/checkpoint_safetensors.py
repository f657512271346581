"""Reads the format safetensors: the length of a JSON header, the header, and the bytes of all tensors.

The format is so plain that these lines are shorter than what a package would need around it: theirs copies every
tensor, and leaves bfloat16 to a further package.
"""

import json
import math
import struct
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mattebox_export.checkpoint_torch import from_bytes, item_bytes
from mattebox_export.checkpoint_values import BFLOAT16, printable
from mattebox_export.errors import ExportError

_LONGEST_HEADER = 10_000_000  # bytes; a network of 10,000 tensors takes a tenth
_MOST_DIMENSIONS, _LONGEST_SIDE = 16, 2**48
_LENGTH = struct.Struct("<Q")
_TYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": BFLOAT16, "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read_safetensors(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Reads a file of the format safetensors.

    Returns:
        Arrays by name, which look at the file's bytes.

    Raises:
        ExportError: it is damaged, or has tensors of an unknown type.
    """
    (length,) = _LENGTH.unpack_from(data)
    body = memoryview(data)[_LENGTH.size + length :]
    if length > _LONGEST_HEADER or _LENGTH.size + length > len(data):
        raise ExportError("the file's header is longer than the file, or than any network needs")
    try:
        header: object = json.loads(data[_LENGTH.size : _LENGTH.size + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ExportError("the file's header is damaged JSON") from error
    if not isinstance(header, dict):
        raise ExportError("the file's header is not a JSON object")
    arrays: dict[str, NDArray[np.generic]] = {}
    left = len(body)
    for name, entry in cast(dict[str, object], header).items():
        if name == "__metadata__":
            continue
        kind, shape, start, end = _place(name, entry)
        left -= end - start
        if not 0 <= start <= end <= len(body) or end - start != math.prod(shape) * item_bytes(kind) or left < 0:
            raise ExportError(f"the file's {printable(name)} is not where its header says: the file is not whole")
        arrays[name] = from_bytes(body[start:end], kind, shape)
    return arrays


def is_safetensors(data: bytes) -> bool:
    """Whether a file starts like one of this format."""
    return len(data) > _LENGTH.size and data[_LENGTH.size : _LENGTH.size + 1] == b"{"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _place(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """An entry of the header: element type as in `StorageType`, shape, and its first byte and the one after its last.

    Raises:
        ExportError: it is no such entry.
    """
    match cast(dict[str, Any], entry) if isinstance(entry, dict) else {}:
        case {"dtype": str(kind), "shape": [*sides], "data_offsets": [int(start), int(end)]}:
            shape = tuple(sides)
        case _:
            raise ExportError(f"the file's header doesn't say where {printable(name)} is")
    if kind not in _TYPES:
        raise ExportError(f"the file's {printable(name)} is of the type {printable(kind)}, which weights never are")
    if len(shape) > _MOST_DIMENSIONS or not all(type(side) is int and 0 < side < _LONGEST_SIDE for side in shape):
        raise ExportError(f"the file's {printable(name)} has no shape, or is empty")
    return _TYPES[kind], shape, start, end
