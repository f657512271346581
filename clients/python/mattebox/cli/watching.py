"""Finds new and changed files in folders.

It lists the folders again and again, because the kernel's notifications don't work on network shares.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mattebox.cli.jobs import Job

_State = tuple[int, int]


class News:
    """Finds files that are new or changed, once two looks show the same size and time, so that they are complete."""

    def __init__(self) -> None:
        self._seen: dict[Path, _State] = {}  # all files at the last look
        self._taken: dict[Path, _State] = {}  # files as they were when they were taken

    def know(self, jobs: Iterable[Job]) -> None:
        """Marks photos as taken in their present state."""
        for job in jobs:
            if job.source is not None and (state := _state(job.source)) is not None:
                self._taken[job.source] = state

    def forget(self, job: Job) -> None:
        """Lets a photo be taken again, though it hasn't changed."""
        if job.source is not None:
            self._taken.pop(job.source, None)

    def of(self, jobs: Iterable[Job]) -> list[Job]:
        """Takes the jobs whose photos are new or changed since they were last taken."""
        found: list[Job] = []
        seen: dict[Path, _State] = {}
        for job in jobs:
            if job.source is None or (state := _state(job.source)) is None:
                continue
            seen[job.source] = state
            if self._seen.get(job.source) == state and self._taken.get(job.source) != state:
                self._taken[job.source] = state
                found.append(job)
        self._seen = seen
        return found


def _state(path: Path) -> _State | None:
    """Returns a file's time of change and size; None for a file that was deleted."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
