"""Files of torch, written out by hand, so that tests can make right and wrong ones without torch.

The functions that return a pickle's operations can be nested as the values are.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mattebox_export.skeletons import load_skeleton, places

ODICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOAT = b"ctorch\nFloatStorage\n"
TRUE, FALSE, NONE = b"\x88", b"\x89", b"N"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def row(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def numbers(values: Sequence[int]) -> bytes:
    return row(*map(number, values))


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + row(*arguments) + b"R"


def table(items: Mapping[str, bytes], start: bytes = b"}") -> bytes:
    """A dict; with `call(ODICT)` as its start an OrderedDict."""
    return start + b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str, numel: int, *more: bytes, kind: bytes = FLOAT) -> bytes:
    return row(text("storage"), kind, text(key), text("cpu"), number(numel), *more) + b"Q"


def tensor(where: bytes, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> bytes:
    return call(REBUILD, where, number(offset), numbers(shape), numbers(strides), FALSE, call(ODICT))


def pickled(operations: bytes) -> bytes:
    return b"\x80\x02" + operations + b"."


def zipped(operations: bytes, storages: Mapping[str, bytes], **members: bytes) -> bytes:
    """torch's format since 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("small/data.pkl", pickled(operations))
        for name, data in members.items():
            archive.writestr(f"small/{name}", data)
        for key, data in storages.items():
            archive.writestr(f"small/data/{key}", data)
    return file.getvalue()


def legacy(operations: bytes, storages: Mapping[str, tuple[int, bytes]]) -> bytes:
    """torch's format before 1.6; a storage has a number of elements beside its bytes."""
    head = number(0x1950A86A20F9469CFC6C), number(1001), table({"little_endian": TRUE}), operations
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    bodies = [struct.pack("<q", numel) + data for numel, data in storages.values()]
    return b"".join([*map(pickled, head), pickled(keys), *bodies])


def safetensors(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def random_state(name: str, classes: int = 21) -> dict[str, NDArray[np.float32]]:
    """Random weights for all places of a skeleton, with variances above 0; torch isn't needed for them."""
    rng = np.random.default_rng(3)
    shapes = {key: tuple(place.dims) for key, place in places(load_skeleton(name)).items()}
    shapes["classifier.4.weight"] = (classes, *shapes["classifier.4.weight"][1:])
    shapes["classifier.4.bias"] = (classes,)
    state = {key: (0.05 * rng.standard_normal(shape)).astype(np.float32) for key, shape in shapes.items()}
    return {key: value + np.float32(key.endswith("_var")) for key, value in state.items()}


def legacy_of(state: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A state dict in torch's format before 1.6, which the official files of DeepLabV3-ResNet101 have."""
    entries = {
        key: tensor(storage(key, value.size), value.shape, [step // 4 for step in value.strides])
        for key, value in state.items()
    }
    return legacy(table(entries, call(ODICT)), {key: (value.size, value.tobytes()) for key, value in state.items()})
