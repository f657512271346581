"""A limit on something that many requests hold at once, such as bytes."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mattebox_server.errors import DeadlineExceeded, Overloaded

_RETRY_AFTER_S = 0.5


class Budget:
    """Counts what is held and refuses what would be too much. Safe to use from any thread.

    Args:
        unit: what is counted, such as "bytes".
        limit: the most that is held at once.
    """

    def __init__(self, unit: str, limit: int) -> None:
        self._lock = threading.Lock()
        self._unit, self._limit = unit, limit
        self._held = 0

    @property
    def held(self) -> int:
        """What is held now."""
        return self._held

    @contextmanager
    def share(self, amount: int = 0) -> Generator["Share"]:
        """What one request holds, given back at the end of the block. Raises Overloaded at the limit."""
        share = Share(self)
        try:
            share.take(amount)
            yield share
        finally:
            with self._lock:
                share.ended = True
                self._held -= share.amount

    def change(self, share: "Share", amount: int, force: bool) -> None:
        """See `Share`."""
        with self._lock:
            if share.ended:  # the caller went away while a thread was at work for it: nobody would give this back
                raise DeadlineExceeded("the caller is gone")
            if not force and self._held + amount > self._limit:
                what = f"{self._held} {self._unit} in flight, {amount} more are over the limit of {self._limit}"
                raise Overloaded(what, _RETRY_AFTER_S, self._unit)
            self._held += amount
            share.amount += amount


class Share:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.amount = 0
        self.ended = False

    def take(self, amount: int) -> None:
        """Accounts for what is about to be held.

        Raises:
            Overloaded: at the limit.
            DeadlineExceeded: the request has ended meanwhile.
        """
        self._budget.change(self, amount, force=False)

    def become(self, amount: int) -> None:
        """Accounts for what is held instead, which can't be refused any more."""
        self._budget.change(self, amount - self.amount, force=True)
