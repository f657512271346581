"""A model file: its spec, and the state of the file. Reading them needs no onnxruntime."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mattebox_server.errors import StartupError
from mattebox_server.spec import ModelSpec, SpecError

# Field numbers of onnx.proto.
_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class FileBytes:
    """The bytes of an open file, of which only the slices that are asked for are read.

    The file isn't mapped into memory, because a mapped file that somebody cuts short ends the process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size

    def __getitem__(self, place: slice) -> bytes:
        found = os.pread(self._descriptor, place.stop - place.start, place.start)
        if len(found) < place.stop - place.start:
            raise ValueError("it was cut short while it was read")
        return found


@dataclass(frozen=True)
class FileState:
    """A file's time, size and inode, of which one changes when the file is replaced or written over."""

    modified_ns: int
    size_bytes: int
    inode: int


def file_state(path: Path) -> FileState | None:
    """The state of a file; None if there is no such file, or it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(found.st_mtime_ns, found.st_size, found.st_ino)


@dataclass(frozen=True)
class Artifact:
    """A model file and its spec.

    Args:
        path: place of the file.
        spec: the file's description of itself.
    """

    path: Path
    spec: ModelSpec

    def sha256(self) -> str:
        """Digest of the whole file (graph, weights and spec), in hexadecimal digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read_artifact(path: Path) -> Artifact:
    """Reads the spec of a model file.

    Raises:
        StartupError: the file can't be read, or is no Mattebox artifact.
    """
    try:
        with path.open("rb") as file:
            metadata = read_metadata(FileBytes(file.fileno()))
    except OSError as error:
        raise StartupError(f"can't read the model {path}: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"{path} is not a whole ONNX file: {error}") from error
    try:
        return Artifact(path, ModelSpec.from_metadata(metadata))
    except SpecError as error:
        raise StartupError(f"{path} is no Mattebox model: {error}") from error


def read_metadata(data: bytes | FileBytes) -> dict[str, str]:
    """The metadata properties of an ONNX file.

    onnxruntime gives them for an open session only, which takes half a second for a ResNet-101. This function skips the
    graph, whose length stands before it, and reads the few hundred bytes behind it.

    Args:
        data: the whole file.

    Raises:
        ValueError: the bytes are not a whole protobuf message.
    """
    properties: dict[str, str] = {}
    for number, start, end in _fields(data, 0, len(data)):
        if number == _METADATA_PROPS:
            entry = {n: bytes(data[s:e]).decode() for n, s, e in _fields(data, start, end)}
            properties[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return properties


def _fields(data: bytes | FileBytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a protobuf message (https://protobuf.dev/programming-guides/encoding)."""
    while start < end:
        tag, start = _varint(data, start, end)
        match tag & 7:
            case kind if kind == _VARINT:
                _, stop = _varint(data, start, end)
            case kind if kind == _BYTES:
                length, start = _varint(data, start, end)
                stop = start + length
            case kind if kind in (_FIXED64, _FIXED32):
                stop = start + (8 if kind == _FIXED64 else 4)
            case kind:
                raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, start, stop
        start = stop


def _varint(data: bytes | FileBytes, start: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while start < end and shift < 64:
        (byte,) = data[start : start + 1]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start
    raise ValueError("it ends in the middle of a number")
