"""Many photos through one client: which are under way, and whose turn it is to be given out.

They go as single calls, as many at a time as asked for, not on the contract's stream: so gRPC shares them among
several servers and repeats each by itself, each photo's deadline is known to the server, and a server that is
restarted costs no photo.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mattebox.errors import MatteboxError
from mattebox.photos import PhotoSource
from mattebox.results import RemovalResult

OnError: TypeAlias = Literal["raise", "return"]
NamedPhoto: TypeAlias = "PhotoSource | tuple[str, PhotoSource]"
"""A photo, or its id and it."""


@dataclass(frozen=True)
class BatchResult:
    """What became of one photo of many: one of `result` and `error` is None.

    Args:
        id: that came with the photo; else its number, from "0" on.
        result: the composite.
        error: why there is none: of the call, or of reading the photo.
    """

    id: str
    result: RemovalResult | None = None
    error: MatteboxError | OSError | None = None


@dataclass(eq=False)
class Slot:
    """A photo under way; `outcome` once it is over."""

    id: str
    outcome: BatchResult | None = None

    def note(self, error: Exception) -> None:
        """Adds to an error which photo it is about."""
        error.add_note(f"photo {self.id!r}")


class Window:
    """At most `concurrency` photos that are under way or wait to be given out, in their order if so asked.

    Raises:
        ValueError: an option is wrong.
    """

    def __init__(self, concurrency: int, ordered: bool, errors: OnError) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
        if errors not in ("raise", "return"):  # pyright: ignore[reportUnnecessaryContains] - not all check types
            raise ValueError(f"errors must be 'raise' or 'return', not {errors!r}")
        self._concurrency, self._ordered, self._errors = concurrency, ordered, errors
        self._slots: deque[Slot] = deque()
        self._taken = 0

    @property
    def has_room(self) -> bool:
        """Whether another photo may start."""
        return len(self._slots) < self._concurrency

    def open(self, item: NamedPhoto) -> tuple[Slot, PhotoSource]:
        """Takes in the next photo. Raises TypeError for an id that is none."""
        name, photo = item if isinstance(item, tuple) else (str(self._taken), item)
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not all check types
            raise TypeError(f"the id of a photo must be a string, not {type(name).__name__}")
        self._taken += 1
        self._slots.append(Slot(name))
        return self._slots[-1], photo

    def __bool__(self) -> bool:
        return bool(self._slots)

    def ready(self) -> Iterable[BatchResult]:
        """Gives out what is finished and has its turn. Raises its error if errors are to be raised."""
        for slot in list(self._slots):
            if slot.outcome is not None:
                self._slots.remove(slot)
                error = slot.outcome.error
                if error is not None and self._errors == "raise":
                    slot.note(error)
                    raise error
                yield slot.outcome
            elif self._ordered:
                break
