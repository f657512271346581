"""Starts a server in a process of its own, on a free port: for tests, benchmarks and demonstrations.

```python
with LocalServer([Path("u2netp.onnx")]) as server:
    client = mattebox.Client(server.address)
```
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from mattebox_server.errors import StartupError

log = structlog.stdlib.get_logger(__name__)

_START_TIMEOUT_S = 300
_STOP_TIMEOUT_S = 60  # twice the grace period that the server gives to running requests by default
_LOG_TIMEOUT_S = 5
_DEFAULT_FLAGS = {"--address": "127.0.0.1:0", "--drain-seconds": "0"}


class LocalServer:
    """Starts `mattebox-server`, waits until it serves, and stops it at the end of the block.

    A server that doesn't end after SIGTERM, or that SIGSTOP holds, is killed after `stop_timeout_s`. Unlike others, the
    server takes no new requests after SIGTERM; the flag `--drain-seconds` changes that.

    Args:
        models: paths or names of the models to serve.
        flags: further flags of `mattebox-server`.
        environment: environment variables of the process; None passes on those of this process.
        program: the program that Python runs, which tests replace by `-c` and a server that they have changed.
        stop_timeout_s: the longest time in seconds between SIGTERM and SIGKILL.

    Attributes:
        address: HOST:PORT that the server listens on.
        events: the server's log so far, one dictionary an event.
        killed: whether the server had to be killed.
    """

    def __init__(
        self,
        models: Sequence[Path | str],
        flags: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "mattebox_server"),
        stop_timeout_s: float = _STOP_TIMEOUT_S,
    ) -> None:
        named = [part for model in models for part in ("--model", str(model))]
        defaults = [part for flag in _DEFAULT_FLAGS.items() if flag[0] not in flags for part in flag]
        self._command = [sys.executable, *program, *named, "--log-format", "json", *defaults, *flags]
        self._environment = environment
        self._stop_timeout_s = stop_timeout_s
        self._serving = threading.Event()
        self.address = ""
        self.events: list[dict[str, Any]] = []
        self.killed = False

    def __enter__(self) -> "LocalServer":
        """Starts the server. Raises StartupError, with the end of the server's log, if it doesn't serve in 300 s."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=self._environment)  # noqa: S603
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self._serving.wait(_START_TIMEOUT_S)
        finally:
            if not self.address:
                self.stop()
        if not self.address:
            raise StartupError(f"the server didn't start: {self.events[-3:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server. Raises TimeoutError if it had to be killed, unless the block fails anyway."""
        self.stop()
        if self.killed and error is None:
            raise TimeoutError(f"the server didn't end within {self._stop_timeout_s} s of SIGTERM and was killed")

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._process.pid

    def stop(self) -> int:
        """Sends SIGTERM, waits for the server's end and returns its exit code. It may be called again.

        After `stop_timeout_s` the server is killed: then the exit code is -9, `killed` is true and a warning is logged.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.killed = True
            self._process.kill()  # SIGKILL also ends a process that SIGSTOP holds
            log.warning("a server that didn't end was killed", pid=self.pid, waited_s=self._stop_timeout_s)
        code = self._process.wait()
        self._reader.join(_LOG_TIMEOUT_S)
        return code

    def _read_log(self) -> None:
        """Reads to the end, so that the server never blocks on a full pipe."""
        for line in self._process.stderr or ():
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError:
                event = {"event": line.rstrip()}  # native libraries write plain text
            self.events.append(event)
            if event.get("event") == "serving":
                self.address = event["address"]
                self._serving.set()
        self._serving.set()
