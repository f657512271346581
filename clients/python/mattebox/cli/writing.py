"""Results to files: a whole one or none."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO, TextIO

from mattebox.cli.jobs import Job
from mattebox.results import RemovalResult


def write(job: Job, result: RemovalResult) -> None:
    """Writes a result, and its matte if that has a file. Raises OSError."""
    if job.alpha is not None and result.alpha is not None:
        write_whole(job.alpha, result.alpha)
    if job.target is None:
        pipe = standard(sys.stdout, "standard output")
        pipe.write(result.image)
        pipe.flush()
    else:
        write_whole(job.target, result.image)


def write_whole(path: Path, content: bytes) -> None:
    """Nobody ever sees half of it, whatever happens. Raises OSError."""
    if path.exists() and not path.is_file():  # /dev/null, a pipe: there is nothing to replace
        path.write_bytes(content)
        return
    part = path.with_name(f".{os.urandom(8).hex()}.part")  # short: the name itself may be as long as can be
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    finally:
        part.unlink(missing_ok=True)


def standard(stream: TextIO | None, name: str) -> BinaryIO:
    """Daemons close standard streams; then Python has None in their place. Raises OSError."""
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), name)
    return stream.buffer
