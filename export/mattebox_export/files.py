"""Files that appear whole or not at all, and that one process makes while others wait."""

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from mattebox_export.errors import ExportError


def write_whole(data: bytes, path: Path) -> None:
    """Writes a file under another name and renames it, so that nobody finds half of it.

    Raises:
        ExportError: the file can't be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ExportError(f"can't write {path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Lets one process at a time make a file, in whose folder a file PATH.lock stays.

    Raises:
        OSError: the folder can't be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it if this process ends
        yield
