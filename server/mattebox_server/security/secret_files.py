"""Files that the operator names: read whole, and told of when others can read them too."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import structlog

from mattebox_server.errors import StartupError

log = structlog.stdlib.get_logger(__name__)

Version: TypeAlias = tuple[int, int, int, int]


def version_of(path: Path) -> Version | None:
    """What changes when a file is written, replaced or linked elsewhere; None while it can't be looked at.

    The time of the inode's last change is among it, which no program can set back.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_file(setting: str, path: Path) -> bytes:
    """The file that a setting names.

    Raises:
        StartupError: it can't be read.
    """
    with _readable(setting, path):
        return path.read_bytes()


def warn_if_shared(setting: str, path: Path) -> None:
    """Warns of a secret that others than this process need not, but can read. Raises StartupError if it is gone."""
    with _readable(setting, path):
        found = path.stat()
    # Where the file is somebody else's (root's, in Kubernetes), this process reads it as one of its group.
    own_group = stat.S_IRGRP if found.st_uid == os.geteuid() else 0
    if found.st_mode & (stat.S_IROTH | own_group):
        log.warning("others can read a secret file", setting=setting, path=str(path))


@contextmanager
def _readable(setting: str, path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(f"{setting}: can't read {path}: {error.strerror}") from error
