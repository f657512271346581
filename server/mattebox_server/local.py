"""A server of one's own, in a process of its own, on a free port: for tests, benchmarks and demonstrations.

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

from mattebox_server.errors import StartupError

_START_TIMEOUT_S = 300


class LocalServer:
    """Starts `mattebox-server`, waits until it serves, and stops it at the end of the block.

    Args:
        models: artifacts.
        flags: further flags of `mattebox-server`.
        environment: of the process; None for this one's.

    Attributes:
        address: HOST:PORT that it listens on.
        events: its log so far, one dictionary an event.
    """

    def __init__(
        self, models: Sequence[Path], flags: Sequence[str] = (), environment: dict[str, str] | None = None
    ) -> None:
        named = [part for model in models for part in ("--model", str(model))]
        fixed = ["--log-format", "json", *([] if "--address" in flags else ["--address", "127.0.0.1:0"])]
        self._command = [sys.executable, "-m", "mattebox_server", *named, *fixed, *flags]
        self._environment = environment
        self._serving = threading.Event()
        self.address = ""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "LocalServer":
        """Raises StartupError if the server doesn't serve, with the end of its log."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=self._environment)  # noqa: S603
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._serving.wait(_START_TIMEOUT_S)
        if not self.address:
            self.stop()
            raise StartupError(f"the server didn't start: {self.events[-3:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def stop(self) -> int:
        """Sends SIGTERM and waits; returns the exit code. Safe to call again."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait()
        self._reader.join()
        return code

    def _read_log(self) -> None:
        """Reads to the end, so that the server never blocks on a full pipe."""
        for line in self._process.stderr or ():
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError:
                event = {"event": line.rstrip()}  # a native library speaks
            self.events.append(event)
            if event.get("event") == "serving":
                self.address = event["address"]
                self._serving.set()
        self._serving.set()
