"""Commands of other programs that the tools run."""

import os
import subprocess
from pathlib import Path


def run(folder: Path, *command: str) -> str:
    """Runs a command in a folder; returns what it prints, of which errors go to standard error."""
    # Hatchling and npm take the time of the commit for that of the files, so that a build can be repeated.
    made_s = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False, cwd=folder
    ).stdout.strip()
    environment = os.environ | ({"SOURCE_DATE_EPOCH": made_s} if made_s else {})
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder, env=environment).stdout


def git(root: Path, *words: str) -> str:
    """Runs git in a checkout; returns what it prints."""
    return subprocess.run(["git", *words], stdout=subprocess.PIPE, text=True, check=True, cwd=root).stdout.strip()
