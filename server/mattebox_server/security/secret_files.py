"""Files that the operator names: they are read whole, and the log warns of secrets that other users can read."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from mattebox_server.errors import StartupError

log = structlog.stdlib.get_logger(__name__)

Version: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class TlsFiles:
    """Paths of the files for TLS, all of which hold PEM.

    Args:
        certificate: path of the server's certificate, which the rest of its chain follows in the same file.
        key: path of the certificate's private key, stored without a passphrase.
        client_ca: path of the authorities that sign the callers' certificates. With it a caller without such a
            certificate is refused; None asks callers for no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def version_of(path: Path) -> Version | None:
    """Returns numbers that change when a file is written, replaced or linked elsewhere; None if it can't be looked at.

    One of them is the time of the inode's last change, which no program can set back.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_file(setting: str, path: Path) -> bytes:
    """Reads the file that a setting names.

    Raises:
        StartupError: the file can't be read; the text begins with the setting's name.
    """
    with _readable(setting, path):
        return path.read_bytes()


def warn_if_shared(setting: str, path: Path) -> None:
    """Logs a warning if other users than the server's can read a secret file. Raises StartupError if it is gone."""
    with _readable(setting, path):
        found = path.stat()
    # If another user owns the file (root does in Kubernetes), the server needs the group's permission to read it.
    own_group = stat.S_IRGRP if found.st_uid == os.geteuid() else 0
    if found.st_mode & (stat.S_IROTH | own_group):
        log.warning("other users can read a secret file", setting=setting, path=str(path))


@contextmanager
def _readable(setting: str, path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(f"{setting}: can't read {path}: {error.strerror}") from error
