"""Reads the pickles of torch's checkpoints without executing anything: a machine that knows the few operations needed.

A pickle is a program. Python's own unpickler imports whatever the program names and calls it, and a few bytes make it
reserve gigabytes. This one only builds numbers, texts, containers and descriptions of tensors.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, cast

from mattebox_export.checkpoint_values import (
    ALLOWED,
    LARGEST,
    Function,
    Inert,
    Storage,
    StorageType,
    number,
    numbers,
    printable,
)
from mattebox_export.errors import ExportError

_MOST_OPERATIONS = 1_000_000  # a ResNet-101 with its optimizer's state takes 50,000


@dataclass(frozen=True)
class Pickle:
    """What a pickle holds.

    Args:
        value: numbers, texts, None, tuples, lists and dicts of these, and `View`, `StorageType` and `Inert` in them.
        storages: all storages that it mentions, by key.
    """

    value: object
    storages: dict[str, Storage]


def read_pickle(stream: IO[bytes]) -> Pickle:
    """Reads one pickle, and leaves the stream behind its end.

    Args:
        stream: a seekable stream of bytes.

    Raises:
        ExportError: the pickle is damaged, or wants something that a state dict never needs.
    """
    machine = _Machine()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= _MOST_OPERATIONS:
                raise ExportError(f"the file's pickle has more than {_MOST_OPERATIONS} operations")
            machine.step(operation.name, argument)
        return Pickle(machine.pop(), machine.storages)
    except (ValueError, LookupError, OverflowError) as error:  # of pickletools, or of an empty stack
        raise ExportError("the file's pickle is damaged") from error


@dataclass
class _Machine:
    """The stack machine that a pickle is a program for."""

    stack: list[object] = field(default_factory=list[object])
    outer: list[list[object]] = field(default_factory=list[list[object]])
    memo: dict[int, object] = field(default_factory=dict[int, object])
    storages: dict[str, Storage] = field(default_factory=dict[str, Storage])

    def step(self, name: str, argument: Any) -> None:
        """Runs one operation, by the name that `pickletools` gives it."""
        if name in _LITERALS:
            self.stack.append(_CONSTANTS.get(name, argument))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in _WITHOUT_EFFECT:
            raise ExportError(f"the file's pickle uses the operation {name}, which a state dict never needs")

    def pop(self) -> object:
        return self.stack.pop()

    def pop_marked(self) -> list[object]:
        items, self.stack = self.stack, self.outer.pop()
        return items


def _mark(machine: _Machine, _: object) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: _Machine, _: object) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _tuple(machine: _Machine, _: object) -> None:
    items = machine.pop_marked()
    machine.stack.append(tuple(items))


def _tuple_of(length: int) -> Callable[[_Machine, object], None]:
    def make(machine: _Machine, _: object) -> None:
        items = [machine.pop() for _ in range(length)]
        machine.stack.append(tuple(reversed(items)))

    return make


def _set_items(machine: _Machine, _: object) -> None:
    items = machine.pop_marked()
    _update(machine.stack[-1], list(zip(items[::2], items[1::2], strict=True)))


def _set_item(machine: _Machine, _: object) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine.stack[-1], [(key, value)])


def _update(target: object, pairs: list[tuple[object, object]]) -> None:
    if not isinstance(target, dict):
        raise ExportError("the file's pickle sets items of something that is not a dict")
    table = cast(dict[object, object], target)
    for key, value in pairs:
        # Hashes of other types, and of long numbers, can be made to take forever.
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < LARGEST)):
            raise ExportError(f"the file's pickle has a key of type {type(key).__name__}, a state dict's are texts")
        table[key] = value


def _append(machine: _Machine, _: object) -> None:
    item = machine.pop()
    _extend(machine.stack[-1], [item])


def _appends(machine: _Machine, _: object) -> None:
    items = machine.pop_marked()
    _extend(machine.stack[-1], items)


def _extend(target: object, items: list[object]) -> None:
    if not isinstance(target, list):
        raise ExportError("the file's pickle appends to something that is not a list")
    cast(list[object], target).extend(items)


def _global(machine: _Machine, argument: str) -> None:
    machine.stack.append(_find(*argument.split(" ", 1)))


def _stack_global(machine: _Machine, _: object) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(_find(module, name))


def _find(module: object, name: object) -> object:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ExportError("the file wants to import something without a name")
    found = ALLOWED.get(f"{module}.{name}")
    if found is None:
        raise ExportError(
            f"the file wants to import {printable(f'{module}.{name}')}, which a state dict never needs:"
            " save network.state_dict() and nothing else"
        )
    return found


def _call(machine: _Machine, _: object) -> None:
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, Function) or not isinstance(arguments, tuple):
        raise ExportError("the file's pickle calls something that is not a function")
    machine.stack.append(function.call(cast(tuple[object, ...], arguments)))


def _build(machine: _Machine, _: object) -> None:
    machine.pop()  # `_metadata` of a state dict, or options of a training script
    if not isinstance(machine.stack[-1], (dict, Inert)):
        raise ExportError("the file's pickle sets the state of an object, which a state dict never needs")


def _items(value: object) -> tuple[object, ...]:
    """The items of a tuple or a list; nothing else has any."""
    return tuple(cast(list[object], value)) if isinstance(value, (tuple, list)) else ()


def _persistent(machine: _Machine, _: object) -> None:
    match _items(machine.pop()):
        case ("storage", StorageType(dtype), str(key), str(), numel) | (
            "storage", StorageType(dtype), str(key), str(), numel, None
        ):  # fmt: skip
            storage = Storage(dtype, key, number(numel), (0, number(numel)))
        case ("storage", StorageType(dtype), str(key), str(), numel, view) if len(_items(view)) == 3:
            start, length = numbers(_items(view)[1:])
            storage = Storage(dtype, key, number(numel), (start, length))
        case ("module", *_):
            raise ExportError("the file holds a whole network, not its state dict: save network.state_dict()")
        case _:
            raise ExportError("the file's pickle refers to something that is not a torch storage")
    known = machine.storages.setdefault(key, storage)
    if (known.dtype, known.numel) != (dtype, storage.numel):
        raise ExportError(f"the file's pickle describes its storage {printable(key)} in two ways")
    machine.stack.append(storage)


_LITERALS = frozenset((
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING",
    "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
))  # fmt: skip
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False}
_WITHOUT_EFFECT = frozenset(("PROTO", "FRAME", "STOP"))
# Protocol 2, which torch uses, and the additions of the newer ones; the texts of protocol 0 are not among them.
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _mark,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _tuple,
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "APPEND": _append,
    "APPENDS": _appends,
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
