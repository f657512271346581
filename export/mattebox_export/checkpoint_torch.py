"""torch's two file formats: a zip archive since torch 1.6, and a row of pickles and raw bytes before.

Both hold the state dict as a pickle, in which tensors are views of storages, and the storages' bytes beside it.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from mattebox_export.checkpoint_pickle import read_pickle
from mattebox_export.checkpoint_values import BFLOAT16, Storage, View, printable
from mattebox_export.errors import ExportError

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # a zip member's signature, and the lengths of its name and extra field
_LENGTH = struct.Struct("<q")
Order = Literal["<", ">"]


@dataclass(frozen=True)
class TorchFile:
    """A file of torch.

    Args:
        content: what its pickle holds, as `read_pickle` returns it.
        raw: returns all bytes of a storage.
        order: its byte order, < or >.
    """

    content: object
    raw: Callable[[Storage], memoryview]
    order: Order

    def array(self, view: View) -> NDArray[np.generic]:
        """Makes an array of a tensor: a view of the file's bytes, but for bfloat16, which becomes float32.

        Raises:
            ExportError: the tensor is not inside its storage.
        """
        storage = view.storage
        start, length = storage.part
        if 0 in view.shape:
            raise ExportError(f"the file has an empty tensor in its storage {printable(storage.key)}")
        reach = sum((side - 1) * stride for side, stride in zip(view.shape, view.strides, strict=False))
        if (
            len(view.shape) != len(view.strides)
            or start + length > storage.numel
            or math.prod(view.shape) > length  # else strides of 0 would make much of little
            or view.offset + reach >= length
        ):
            raise ExportError(f"the file has a tensor that is not inside its storage {printable(storage.key)}")
        size = item_bytes(storage.dtype)
        return from_bytes(
            self.raw(storage)[(start + view.offset) * size :],
            storage.dtype,
            view.shape,
            self.order,
            tuple(stride * size for stride in view.strides),
        )


def from_bytes(
    raw: memoryview, dtype: str, shape: tuple[int, ...], order: Order = "<", strides: tuple[int, ...] | None = None
) -> NDArray[np.generic]:
    """Makes an array that looks at bytes; of bfloat16 a new one of float32, as numpy lacks that type.

    Args:
        raw: the bytes, from the first element on.
        dtype: as in `StorageType`.
        shape: the array's shape.
        order: byte order, < or >.
        strides: distances between elements in bytes; None for C's order.
    """
    kind = np.dtype("u2" if dtype == BFLOAT16 else dtype).newbyteorder(order)
    array: NDArray[np.generic] = np.ndarray(shape, kind, raw, 0, strides)
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else array


def read_zip(data: bytes) -> TorchFile:
    """Reads a zip archive of torch.

    Raises:
        ExportError: it is not torch's, or it is damaged.
    """
    archive = _Archive(data)
    order = bytes(archive.member("byteorder")) if archive.has("byteorder") else b"little"
    if order not in (b"little", b"big"):
        raise ExportError(f"the file's byte order is neither little nor big, but {printable(str(order))}")
    content = read_pickle(io.BytesIO(archive.member("data.pkl")))

    def raw(storage: Storage) -> memoryview:
        member = archive.member(f"data/{storage.key}")
        if len(member) != storage.numel * item_bytes(storage.dtype):
            raise ExportError(f"the file's storage {printable(storage.key)} has another size than its pickle says")
        return member

    return TorchFile(content.value, raw, "<" if order == b"little" else ">")


class _Archive:
    """A zip archive whose members are looked at where they are, because zipfile would copy them."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise ExportError(f"the file is a damaged zip archive: {error}") from error
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise ExportError("the file is a zip archive with two members of one name")
        roots = [name.removesuffix("/data.pkl") for name in self._infos if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ExportError("the file is a zip archive, but not one that torch.save writes: it has no data.pkl")
        self._root = roots[0]
        self._checked = dict[str, memoryview]()

    def has(self, name: str) -> bool:
        return f"{self._root}/{name}" in self._infos

    def member(self, name: str) -> memoryview:
        """The bytes of a member, whose checksum is right."""
        if name not in self._checked:
            self._checked[name] = self._read(name)
        return self._checked[name]

    def _read(self, name: str) -> memoryview:
        if not self.has(name):
            raise ExportError(f"the file lacks {printable(name)}: it is damaged, or was not saved by torch")
        info = self._infos[f"{self._root}/{name}"]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise ExportError(f"the file's {printable(name)} is compressed or encrypted, which torch never does")
        start = info.header_offset + _LOCAL_HEADER.size
        if not 0 <= info.header_offset <= len(self._data) - _LOCAL_HEADER.size:
            raise ExportError(f"the file's {printable(name)} is not inside the file")
        signature, *lengths = _LOCAL_HEADER.unpack_from(self._data, info.header_offset)
        start += sum(lengths)
        if signature != b"PK\x03\x04" or start + info.file_size > len(self._data):
            raise ExportError(f"the file's {printable(name)} is not inside the file")
        if info.file_size + sum(map(len, self._checked.values())) > len(self._data):
            raise ExportError("the file is a zip archive whose members overlap")
        found = self._data[start : start + info.file_size]
        if zlib.crc32(found) != info.CRC:
            raise ExportError(f"the checksum of the file's {printable(name)} is wrong: the file is damaged")
        return found


def is_legacy(data: bytes) -> bool:
    """Whether a file starts with the number by which torch before 1.6 marked its files."""
    try:
        return data.startswith(b"\x80") and read_pickle(io.BytesIO(data)).value == _LEGACY_MAGIC
    except ExportError:
        return False


def read_legacy(data: bytes) -> TorchFile:
    """Reads a file that was saved by torch before 1.6, one for which `is_legacy` holds.

    Raises:
        ExportError: it is damaged.
    """
    stream = io.BytesIO(data)  # without a copy
    read_pickle(stream)  # the number that marks the format
    if read_pickle(stream).value != _LEGACY_PROTOCOL:
        raise ExportError(f"the file has another version of torch's old format than {_LEGACY_PROTOCOL}")
    read_pickle(stream)  # sizes of C's types on the machine that wrote it; elements are always little-endian
    content, keys = read_pickle(stream), read_pickle(stream).value
    places = _legacy_storages(memoryview(data), stream.tell(), content.storages, keys)

    def raw(storage: Storage) -> memoryview:
        if storage.key not in places:
            raise ExportError(f"the file lacks its storage {printable(storage.key)}")
        return places[storage.key]

    return TorchFile(content.value, raw, "<")


def _legacy_storages(
    data: memoryview, position: int, storages: dict[str, Storage], keys: object
) -> dict[str, memoryview]:
    """The bytes of each storage: after the pickles, number of elements and elements of one follow those of another."""
    if not isinstance(keys, list):
        raise ExportError("the file has no list of its storages")
    places = dict[str, memoryview]()
    for key in cast(list[object], keys):
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise ExportError("the file lists a storage that its pickle doesn't mention")
        start = position + _LENGTH.size
        position = start + storage.numel * item_bytes(storage.dtype)
        if position > len(data):
            raise ExportError(f"the file ends in the middle of its storage {printable(storage.key)}: it is not whole")
        if _LENGTH.unpack_from(data, start - _LENGTH.size) != (storage.numel,):
            raise ExportError(f"the file's storage {printable(storage.key)} has another size than its pickle says")
        places[storage.key] = data[start:position]
    return places


def item_bytes(dtype: str) -> int:
    """Bytes of one element of a type as in `StorageType`."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
