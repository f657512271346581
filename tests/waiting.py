"""Waiting for what another process does."""

import time
from collections.abc import Callable

from mattebox_server.local import LocalServer


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answered(server: LocalServer) -> int:
    return sum(event.get("event") == "request" for event in list(server.events))
