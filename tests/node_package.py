"""The TypeScript package and Node's tools."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clients" / "typescript"
LONGEST_S = 300


@pytest.fixture(scope="module")
def npm() -> str:
    """Returns the command npm; the packages of the lock file are installed."""
    command = shutil.which("npm")
    if command is None:
        pytest.skip("there is no npm on this machine: the TypeScript client isn't tested")
    installed, lock = PACKAGE / "node_modules" / ".package-lock.json", PACKAGE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run(command, "ci", "--no-audit", "--no-fund", "--loglevel=error")
        installed.touch()
    return command


def run(*command: str, **environment: str) -> str:
    """Runs a command in the package's folder; returns what it prints."""
    done = subprocess.run(
        command,
        cwd=PACKAGE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"
    return done.stdout
