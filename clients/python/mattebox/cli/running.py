"""Sends photos and writes the results: of one photo, of a plan, or of folders that are watched."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from mattebox import (
    BatchResult,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    MatteboxError,
    Overloaded,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from mattebox.batches import NamedPhoto
from mattebox.cli.connecting import INTERRUPTED
from mattebox.cli.jobs import Job, Naming, Plan, plan_folder
from mattebox.cli.reporting import Report
from mattebox.cli.watching import News
from mattebox.cli.writing import standard, write
from mattebox.options import RemovalOptions

_WATCH_S = 1.0
_OUTAGE = (Unavailable, Overloaded, DeadlineExceeded)
_COMMON = (Unavailable, DeadlineExceeded, UnknownModel, Unauthenticated)


@dataclass(frozen=True)
class Run:
    """The client and the options with which photos are sent."""

    client: Client
    options: RemovalOptions
    concurrency: int
    timeout_s: float

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, BatchResult]]:
        """Yields the jobs and their results as they finish."""
        named: Iterator[NamedPhoto] = ((str(number), _source(job)) for number, job in enumerate(jobs))
        options = self.options
        for item in self.client.remove_backgrounds(
            named,
            concurrency=self.concurrency,
            errors="return",
            model=options.model,
            keep=options.keep,
            matte=options.matte,
            background=options.background,
            output=options.output,
            timeout=self.timeout_s,
        ):
            yield jobs[int(item.id)], item

    def all(self, jobs: Sequence[Job], report: Report, later: Callable[[Job], None] | None = None) -> None:
        """Sends the photos and writes the results.

        Args:
            jobs: the photos and their files.
            report: gets each outcome.
            later: gets the photos that failed because no server answered; None reports them as failures.

        Raises:
            MatteboxError: no photo has succeeded, and this error would be that of every photo.
        """
        before: Exception | None = None
        for job, item in self.results(jobs):
            if item.error is not None:
                if later is not None and isinstance(item.error, _OUTAGE):
                    later(job)
                elif not report.done and _is_common(item.error, before):
                    raise item.error
                else:
                    report.fail(job, item.error)
                before = item.error
            if item.result is None:
                continue
            try:
                if job.target is not None:
                    job.target.parent.mkdir(parents=True, exist_ok=True)
                write(job, item.result)
            except OSError as error:
                report.fail(job, error)
            else:
                report.succeed(job, item.result)


def _is_common(error: Exception, before: Exception | None) -> bool:
    """Whether an error is common to all photos: the server's state, or an option that it refused for two photos.

    The server's descriptions of a fault in a photo name the field `encoded` or hold the photo's size. So two
    photos that were refused in the same other words were refused for an option.
    """
    if isinstance(error, InvalidRequest) and isinstance(before, InvalidRequest):
        about_options = not any(violation.field == "encoded" for violation in error.violations)
        return bool(error.violations) and about_options and error.violations == before.violations
    return isinstance(error, _COMMON)


def remove_one(run: Run, report: Report, job: Job, skip_existing: bool) -> None:
    """Sends one photo and writes its result. Raises what the call and the files raise."""
    existing = skip_existing and job.is_done()
    try:
        for _, item in run.results([] if existing else [job]):
            if item.error is not None:
                raise item.error
            if item.result is not None:
                write(job, item.result)
                report.succeed(job, item.result)
    except (MatteboxError, OSError) as error:
        report.fail(job, error)
        raise
    finally:
        if report.as_json:
            report.summarise(0, int(existing))
        elif existing:
            typer.echo(f"{job.target}: skipped because it exists", err=True)


def finish(run: Run, report: Report, plan: Plan) -> None:
    """Sends the photos of a plan. Raises typer.Exit with code 1 if a photo failed, 130 after Ctrl-C."""
    try:
        with report.running():
            run.all(plan.jobs, report)
    except (KeyboardInterrupt, SystemExit) as stop:
        report.summarise(plan.other, plan.existing)
        typer.echo(f"mattebox: interrupted: {report.done} of {len(plan.jobs)} done", err=True)
        if isinstance(stop, SystemExit):
            raise
        raise typer.Exit(INTERRUPTED) from None
    report.summarise(plan.other, plan.existing)
    if report.failures:
        raise typer.Exit(1)


def watch_folders(
    run: Run, photos: Sequence[str], out: Path, naming: Naming, skip_existing: bool, as_json: bool
) -> None:
    """Sends the photos in folders, and those that are added, until Ctrl-C. Raises typer.Exit with 1 if one failed."""
    if not all(Path(photo).is_dir() for photo in photos):
        raise ValueError("--watch: the inputs must be folders")
    if any(Path(photo).resolve() == out.resolve() for photo in photos):
        raise ValueError(f"--watch: --out {out} is one of the watched folders, so results would be taken as photos")
    news, report = News(), Report(None, as_json, several=True)
    plan = plan_folder(photos, out, naming, skip_existing).checked()
    if skip_existing:  # a photo whose result exists is taken only when it changes
        news.know(set(plan_folder(photos, out, naming, False).jobs) - set(plan.jobs))
    try:
        while True:
            _take(run, report, plan, news)
            time.sleep(_WATCH_S)
            plan = plan_folder(photos, out, naming, False)
    except (KeyboardInterrupt, SystemExit) as stop:
        report.summarise(plan.other, 0)
        if isinstance(stop, SystemExit):
            raise
    if report.failures:
        raise typer.Exit(1)


def _take(run: Run, report: Report, plan: Plan, news: News) -> None:
    """Sends new photos. A photo whose result would replace another fails alone, and an outage only delays photos."""
    jobs = news.of(plan.jobs)
    for job in jobs:
        if job in plan.clashes:
            report.fail(job, ValueError(plan.clashes[job]))
    run.all([job for job in jobs if job not in plan.clashes], report, news.forget)


def _source(job: Job) -> bytes | Path:
    return standard(sys.stdin, "standard input").read() if job.source is None else job.source
