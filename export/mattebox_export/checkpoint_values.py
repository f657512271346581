"""What the pickles of torch's checkpoints may name, and what becomes of it: descriptions of tensors, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from mattebox_export.errors import ExportError

LARGEST = 2**48  # of lengths, strides and offsets, in elements; the file bounds them more closely later
_MOST_DIMENSIONS = 16
_LONGEST_NAME = 80

BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class StorageType:
    """The element type of a storage: a numpy type without byte order, or `BFLOAT16`."""

    dtype: str


@dataclass(frozen=True)
class Storage:
    """A run of elements elsewhere in the file.

    Args:
        dtype: as in `StorageType`.
        key: its name in the file.
        numel: number of elements of the whole storage.
        part: first element and number of elements of the part that is meant.
    """

    dtype: str
    key: str
    numel: int
    part: tuple[int, int]


@dataclass(frozen=True)
class View:
    """A tensor before its elements are read: a strided view of a storage, all in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Inert:
    """An object of which nothing is kept, such as the options of a training script."""


@dataclass(frozen=True)
class Function:
    """What a name of the allowlist stands for; `call` gets the arguments of the pickle."""

    call: Callable[[tuple[object, ...]], object]


def printable(name: str) -> str:
    """A name from a file, short and without characters that a terminal would obey."""
    text = ascii(name)[1:-1]
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def number(value: object) -> int:
    """A length or an offset of a pickle.

    Raises:
        ExportError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise ExportError("the file's pickle describes a tensor by something that is not a length")
    return value


def numbers(value: object) -> tuple[int, ...]:
    """A shape or the strides of a pickle.

    Raises:
        ExportError: it is none.
    """
    if not isinstance(value, tuple) or len(cast(tuple[object, ...], value)) > _MOST_DIMENSIONS:
        raise ExportError("the file's pickle describes a tensor by something that is not a shape")
    return tuple(number(item) for item in cast(tuple[object, ...], value))


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    """An OrderedDict is a dict here, which is empty at first, as all items are set one by one."""
    if arguments:
        raise ExportError("the file's pickle has an OrderedDict as Python 2 wrote it: load and save it by Python 3")
    return dict[object, object]()


def _tensor(arguments: tuple[object, ...]) -> object:
    """`_rebuild_tensor` gives these four, `_rebuild_tensor_v2` also says who needs a gradient, and hooks."""
    match arguments:
        case (Storage() as storage, offset, shape, strides, *_):
            return View(storage, number(offset), numbers(shape), numbers(strides))
        case _:
            raise ExportError("the file's pickle has a tensor without a storage")


def _parameter(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (View() as view, *_):
            return view
        case _:
            raise ExportError("the file's pickle has a parameter without a tensor")


def _inert(_: tuple[object, ...]) -> object:
    return Inert()


ALLOWED: dict[str, object] = {
    "collections.OrderedDict": Function(_ordered_dict),
    "torch._utils._rebuild_tensor": Function(_tensor),
    "torch._utils._rebuild_tensor_v2": Function(_tensor),
    "torch._utils._rebuild_parameter": Function(_parameter),
    "argparse.Namespace": Function(_inert),  # torchvision's training script saves its options
    "torch.DoubleStorage": StorageType("f8"),
    "torch.FloatStorage": StorageType("f4"),
    "torch.HalfStorage": StorageType("f2"),
    "torch.BFloat16Storage": StorageType(BFLOAT16),
    "torch.LongStorage": StorageType("i8"),
    "torch.IntStorage": StorageType("i4"),
    "torch.ShortStorage": StorageType("i2"),
    "torch.CharStorage": StorageType("i1"),
    "torch.ByteStorage": StorageType("u1"),
    "torch.BoolStorage": StorageType("?"),
}
