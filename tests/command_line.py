"""The command line `mattebox` in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from mattebox_server.local import LocalServer


def run(server: LocalServer | None, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = dict(os.environ, COLUMNS="200", NO_COLOR="1")
    if server is not None:
        environment["MATTEBOX_ADDRESS"] = server.address
    return subprocess.run(
        [sys.executable, "-m", "mattebox", *argv], input=stdin, capture_output=True, env=environment, check=False
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def start(server: LocalServer, *words: str) -> "subprocess.Popen[str]":
    environment = dict(os.environ, MATTEBOX_ADDRESS=server.address)
    command = [sys.executable, "-m", "mattebox", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
