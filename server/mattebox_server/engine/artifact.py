"""A model file: its spec, and the state of the file. Reading them needs no onnxruntime."""

import hashlib
import io
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from mattebox_server.engine.formats import foreign_format
from mattebox_server.errors import StartupError
from mattebox_server.spec import ModelSpec, SpecError

# Field numbers of onnx.proto.
_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


FileState = tuple[int, int, int]
"""Time, size and inode of a file, of which one changes when the file is replaced or written over."""


def file_state(path: Path) -> FileState | None:
    """The state of a file; None if there is no such file, or it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def file_sha256(path: Path) -> str:
    """Digest of a whole file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """The path of a model file, and the file's description of itself."""

    path: Path
    spec: ModelSpec

    @cached_property
    def sha256(self) -> str:
        """Digest of the file, as it is when this is asked for first. Raises OSError if it can't be read."""
        return file_sha256(self.path)


def read_artifact(path: Path) -> Artifact:
    """Reads the spec of a model file.

    Raises:
        StartupError: the file can't be read, or is no Mattebox artifact.
    """
    try:
        if (foreign := foreign_format(path)) is not None:
            raise StartupError(f"{path} is no Mattebox model, it is {foreign}")
        with path.open("rb") as file:
            metadata = read_metadata(file)
    except OSError as error:
        raise StartupError(f"can't read the model {path}: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"{path} is not a whole ONNX file: {error}") from error
    try:
        return Artifact(path, ModelSpec.from_metadata(metadata))
    except SpecError as error:
        raise StartupError(f"{path} is no Mattebox model: {error}") from error


def read_metadata(file: BinaryIO) -> dict[str, str]:
    """The metadata properties of an ONNX file.

    onnxruntime gives them for an open session only, which takes half a second for a ResNet-101. This function skips the
    graph, whose length stands before it, and reads the few hundred bytes behind it. The file isn't mapped into memory,
    because a mapped file that somebody cuts short ends the process.

    Args:
        file: the whole file, seekable.

    Raises:
        ValueError: the file is not a whole protobuf message, or is cut short meanwhile.
    """
    properties: dict[str, str] = {}
    for _, value in _fields(file, (_METADATA_PROPS,)):
        entry = {number: text.decode() for number, text in _fields(io.BytesIO(value), (_KEY, _VALUE))}
        properties[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return properties


def _fields(file: BinaryIO, wanted: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each wanted field of a protobuf message (https://protobuf.dev/programming-guides/encoding)."""
    size, place = file.seek(0, os.SEEK_END), file.seek(0)
    while place < size:
        tag = _varint(file)
        match tag & 7:
            case kind if kind == _VARINT:
                _varint(file)
            case kind if kind == _BYTES:
                length = min(_varint(file), size)  # `seek` raises OverflowError from 2^63 on
                if tag >> 3 in wanted:
                    yield tag >> 3, _read(file, length)
                else:
                    file.seek(length, os.SEEK_CUR)
            case kind if kind in (_FIXED64, _FIXED32):
                file.seek(8 if kind == _FIXED64 else 4, os.SEEK_CUR)
            case kind:
                raise ValueError(f"wire type {kind}")
        place = file.tell()
    if place > size:
        raise ValueError("it ends in the middle of a field")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        (byte,) = _read(file, 1)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number is too long")


def _read(file: BinaryIO, length: int) -> bytes:
    found = file.read(length)
    if len(found) < length:
        raise ValueError("it ends in the middle of a field")
    return found
