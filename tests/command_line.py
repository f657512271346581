"""The command line `mattebox` in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mattebox_server.local import LocalServer

LONGEST_S = 60
_COMMAND = (sys.executable, "-m", "mattebox")


def run(server: LocalServer | None, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = dict(os.environ, COLUMNS="200", NO_COLOR="1")
    if server is not None:
        environment["MATTEBOX_ADDRESS"] = server.address
    return subprocess.run([*_COMMAND, *argv], input=stdin, capture_output=True, env=environment, check=False)


def files(folder: Path) -> list[str]:
    """Returns the paths of all files below a folder; none where there is no folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextmanager
def sigint_interrupts() -> Generator[None]:
    """Lets SIGINT interrupt this process, and processes that start in the block.

    A shell script starts its background jobs with SIGINT ignored, and processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Command:
    """A command that runs until it ends or is killed at the end of the block.

    Attributes:
        output: the lines of standard output so far.
        errors: the lines of standard error so far.
    """

    def __init__(self, address: str, *argv: str) -> None:
        self._argv, self._environment = argv, dict(os.environ, MATTEBOX_ADDRESS=address)
        self.output: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> "Command":
        with sigint_interrupts():
            self._process = subprocess.Popen(
                [*_COMMAND, *self._argv],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=self._environment,
            )
        pairs = ((self._process.stdout, self.output), (self._process.stderr, self.errors))
        self._readers = [threading.Thread(target=_read, args=pair) for pair in pairs]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._end()

    def stop(self, number: int) -> int:
        """Sends a signal; returns the exit code."""
        self._process.send_signal(number)
        return self._end()

    def _end(self) -> int:
        code = self._process.wait(LONGEST_S)
        for reader in self._readers:
            reader.join()
        return code


def _read(pipe: IO[str] | None, lines: list[str]) -> None:
    assert pipe is not None
    with pipe:
        for line in pipe:
            lines.append(line.rstrip("\n"))
