"""Writes results to files, each of them whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO, TextIO

from mattebox.cli.jobs import Job
from mattebox.results import RemovalResult


def write(job: Job, result: RemovalResult) -> None:
    """Writes a result, and its matte if the job has a file for it. Raises OSError."""
    if job.alpha is not None and result.alpha is not None:
        write_whole(job.alpha, result.alpha)
    if job.target is None:
        pipe = standard(sys.stdout, "standard output")
        pipe.write(result.image)
        pipe.flush()
    else:
        write_whole(job.target, result.image)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it never exists with a part of its content. Raises OSError."""
    if path.exists() and not path.is_file():  # /dev/null or a pipe can't be replaced
        path.write_bytes(content)
        return
    part = path.with_name(
        f".{os.urandom(8).hex()}.part"
    )  # a short name, as the target's own may have the greatest length
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        error.filename = str(path)  # the name that the user wrote
        raise
    finally:
        part.unlink(missing_ok=True)


def standard(stream: TextIO | None, name: str) -> BinaryIO:
    """Returns the bytes of a standard stream. Raises OSError for a closed stream, which Python replaces by None."""
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), name)
    return stream.buffer
