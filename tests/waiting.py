"""Waits for another process."""

import time
from collections.abc import Callable

from mattebox_server.local import LocalServer

LONGEST_S = 60


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until a condition is true; fails after a minute."""
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answered(server: LocalServer) -> int:
    """Returns the number of requests in a server's log."""
    return sum(event.get("event") == "request" for event in list(server.events))
