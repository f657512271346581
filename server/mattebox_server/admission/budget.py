"""The one bound of memory that all requests share."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mattebox_server.errors import Overloaded, PhotoTooLarge, Violation

_RETRY_AFTER_S = 0.5


class Budget:
    """Counts the bytes that requests hold, and refuses what would be too much. Safe to use from any thread.

    Args:
        limit_bytes: the largest number of bytes held at once.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._lock = threading.Lock()
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """The bytes that all requests hold now."""
        return self._held_bytes

    @contextmanager
    def share(self) -> Generator["Share"]:
        """Gives the share of one request, which holds nothing at first; returns all of it at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            share.become(0)

    def take(self, share: "Share", amount_bytes: int, field: str) -> None:
        """Makes a share larger; see `Share.take` for the arguments and the errors."""
        with self._lock:
            if share.bytes + amount_bytes > self._limit_bytes:
                what = f"{share.bytes + amount_bytes} bytes of memory are needed, the server has {self._limit_bytes}"
                raise PhotoTooLarge(Violation(field, what))
            if self._held_bytes + amount_bytes > self._limit_bytes:
                what = f"requests in flight hold {self._held_bytes} bytes of memory, the limit is {self._limit_bytes}"
                raise Overloaded(what, _RETRY_AFTER_S, "memory")
            self._add(share, amount_bytes)

    def settle(self, share: "Share", held_bytes: int) -> None:
        """Sets what a share holds, whatever the limit."""
        with self._lock:
            self._add(share, held_bytes - share.bytes)

    def _add(self, share: "Share", amount_bytes: int) -> None:
        self._held_bytes += amount_bytes
        share.bytes += amount_bytes


class Share:
    """The bytes that one request holds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.bytes = 0

    def take(self, amount_bytes: int, field: str = "photo") -> None:
        """Accounts for memory that the request is about to hold.

        Args:
            amount_bytes: the bytes to come, beside those that the request holds already.
            field: the field of the request that needs them, for the error.

        Raises:
            Overloaded: other requests hold too much now.
            PhotoTooLarge: the request alone would be over the limit.
        """
        self._budget.take(self, amount_bytes, field)

    def become(self, held_bytes: int) -> None:
        """Accounts for what the request holds now in place of all before. It can't be refused any more."""
        self._budget.settle(self, held_bytes)
