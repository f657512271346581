"""How much the server takes on at once: requests, and pixels that they hold in memory."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from mattebox_server.errors import DeadlineExceeded, Overloaded

_RETRY_AFTER_S = 0.5


class Admission:
    """Counts what is in flight and refuses what would be too much. Safe to use from any thread."""

    def __init__(self, max_requests: int, max_pixels: int) -> None:
        self._lock = threading.Lock()
        self._max_requests, self._max_pixels = max_requests, max_pixels
        self._requests = self._pixels = 0

    @contextmanager
    def enter(self) -> Generator["Permit"]:
        """Admits one request until the block ends. Raises Overloaded at the limit."""
        with self._lock:
            if self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests in flight, the limit", _RETRY_AFTER_S)
            self._requests += 1
        permit = Permit(self)
        try:
            yield permit
        finally:
            with self._lock:
                permit.ended = True
                self._requests -= 1
                self._pixels -= permit.pixels

    def take_pixels(self, permit: "Permit", pixels: int) -> None:
        """See `Permit.add_pixels`."""
        with self._lock:
            if permit.ended:  # the caller went away while a thread was at work for it: nobody would give these back
                raise DeadlineExceeded("the caller is gone")
            if self._pixels + pixels > self._max_pixels:
                raise Overloaded(f"{self._pixels} pixels in flight, {pixels} more are over the limit", _RETRY_AFTER_S)
            self._pixels += pixels
            permit.pixels += pixels


class Permit:
    """One admitted request."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.pixels = 0
        self.ended = False

    def add_pixels(self, pixels: int) -> None:
        """Accounts for an image that is about to be decoded.

        Raises:
            Overloaded: at the limit.
            DeadlineExceeded: the request has ended meanwhile.
        """
        self._admission.take_pixels(self, pixels)
