"""The photos of a batch: which of them are under way, and which result comes next.

Each photo is a call of its own. Therefore gRPC shares the photos among several servers and repeats each by itself, the
server knows each photo's deadline, and the restart of a server loses no photo.
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
"""A photo, or the pair of an id and a photo."""


@dataclass(frozen=True)
class BatchResult:
    """The outcome for one photo of a batch: either `result` or `error` is None.

    Args:
        id: the photo's id, or its number from "0" on where it has none.
        result: the answer to the photo.
        error: the error of the call, or of reading the photo.
    """

    id: str
    result: RemovalResult | None = None
    error: MatteboxError | OSError | None = None


@dataclass(eq=False)
class Slot:
    """A photo under way; `outcome` is None until its call has ended."""

    id: str
    outcome: BatchResult | None = None

    def note(self, error: Exception) -> None:
        """Adds to an error which photo it is about."""
        error.add_note(f"photo {self.id!r}")


class Window:
    """The photos that are under way, and the results that wait for their turn.

    Args:
        concurrency: the largest number of photos in the window, 1 or more.
        ordered: whether results come in the order of the photos, instead of as they finish.
        errors: "raise" or "return".

    Raises:
        ValueError: `concurrency` or `errors` is out of range.
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
        """Adds the next photo. Raises TypeError for an id that is not a string."""
        name, photo = item if isinstance(item, tuple) else (str(self._taken), item)
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not all check types
            raise TypeError(f"the id of a photo must be a string, not {type(name).__name__}")
        self._taken += 1
        self._slots.append(Slot(name))
        return self._slots[-1], photo

    def __bool__(self) -> bool:
        return bool(self._slots)

    def ready(self) -> Iterable[BatchResult]:
        """Removes and yields the results that have their turn. Raises an error in its turn, if `errors` is "raise"."""
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
