"""New files in a folder that is watched.

By looking again and again: it needs nothing of the system, and works on network shares, where the kernel's own
notifications don't.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mattebox.cli.jobs import Job

_State = tuple[int, int]


class News:
    """Tells which files are new or have changed, once they stand still between two looks."""

    def __init__(self) -> None:
        self._seen: dict[Path, _State] = {}  # at the last look
        self._taken: dict[Path, _State] = {}

    def know(self, jobs: Iterable[Job]) -> None:
        """These are done as they are now."""
        for job in jobs:
            if job.source is not None and (state := _state(job.source)) is not None:
                self._taken[job.source] = state

    def forget(self, job: Job) -> None:
        """It is to be taken again, though it hasn't changed."""
        if job.source is not None:
            self._taken.pop(job.source, None)

    def of(self, jobs: Iterable[Job]) -> list[Job]:
        """Those to take now."""
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
    """Time of the last change and size; None for what has just gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
