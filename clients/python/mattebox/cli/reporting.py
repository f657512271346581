"""The messages of a run: lines, a progress bar, or JSON."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from mattebox.cli.connecting import describe
from mattebox.cli.jobs import STANDARD, Job
from mattebox.results import RemovalResult

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass
class Report:
    """Prints each outcome when it is known, and all failures at the end.

    Args:
        total: the number of photos; None where it isn't known, because folders are watched.
        as_json: whether to print one line of JSON for each photo on standard output, and one with the totals.
        several: whether there may be several photos, which need a progress bar and the names of those that failed.
    """

    total: int | None
    as_json: bool
    several: bool
    done: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def running(self) -> AbstractContextManager[object]:
        """Shows a progress bar for several photos on a terminal."""
        if self.as_json or not self.several or self.total is None or not _is_terminal():
            return nullcontext()
        from mattebox.cli.progress import bar  # noqa: PLC0415 - only a terminal needs it

        self._bar = bar()
        self._task = self._bar.add_task("photos", total=self.total, failed="")
        return self._bar

    def succeed(self, job: Job, result: RemovalResult) -> None:
        """Reports a result that is written."""
        self.done += 1
        target = STANDARD if job.target is None else str(job.target)
        took_ms = result.timings.total.total_seconds() * 1000
        if self.as_json:
            subjects = [{"label": subject.label, "coverage": subject.coverage} for subject in result.subjects]
            size = {"width": result.width, "height": result.height, "format": result.format}
            self._print({"photo": job.name, "out": target, **size, "subjects": subjects, "server_ms": took_ms})
        elif self._bar is None:
            found = ", ".join(f"{subject.label} {subject.coverage:.0%}" for subject in result.subjects) or "nothing"
            took = f"{took_ms:.0f} ms on {result.execution.provider}"
            line = f"{target}: {result.width}x{result.height} {result.format}, found {found}, {took}"
            typer.echo(line, err=True)
        self._advance()

    def fail(self, job: Job, error: BaseException) -> None:
        """Reports a photo that failed."""
        self.failures.append((job.name, describe(error)))
        if self.as_json:
            self._print({"photo": job.name, "error": describe(error), "code": getattr(error, "code", "")})
        elif self._bar is None and self.several:
            typer.echo(f"{job.name}: failed", err=True)
        self._advance()

    def summarise(self, other: int, existing: int) -> None:
        """Prints the failures and the totals."""
        if self.as_json:
            self._print({"done": self.done, "failed": len(self.failures), "existing": existing, "no_photos": other})
            return
        for name, text in self.failures:
            typer.echo(f"mattebox: {name}: {text}", err=True)
        parts = [f"{self.done} done"]
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        parts += [f"{existing} skipped because their results exist"] if existing else []
        parts += [f"{other} file{'' if other == 1 else 's'} without the suffix of a photo"] if other else []
        typer.echo(", ".join(parts), err=True)

    _bar: Progress | None = field(default=None, init=False)
    _task: int = field(default=0, init=False)

    def _advance(self) -> None:
        if self._bar is not None:
            failed = f"{len(self.failures)} failed" if self.failures else ""
            self._bar.update(self._task, advance=1, failed=failed)  # type: ignore[arg-type]  # pyright: ignore

    def _print(self, words: dict[str, object]) -> None:
        typer.echo(json.dumps(words, ensure_ascii=False))


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison] - a daemon has no standard error
