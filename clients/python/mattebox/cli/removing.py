"""`mattebox remove`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mattebox import Client, Matte, MatteboxError, Output, Unavailable
from mattebox.batches import NamedPhoto, StreamResult
from mattebox.cli.connecting import INTERRUPTED, Connection, connected
from mattebox.cli.jobs import STANDARD, SUFFIXES, Job, Naming, Plan, goes_into_a_folder, plan_folder
from mattebox.cli.reporting import Report
from mattebox.cli.watching import News
from mattebox.cli.writing import standard, write
from mattebox.options import ImageFormat, MatteMethod, RemovalOptions, Size

NAME = "{stem}.{suffix}"
_WATCH_S = 1.0


@connected
def remove(
    connection: Connection,
    *,
    photos: Annotated[list[str], typer.Argument(help="Image files, folders, patterns, or - for standard input.")],
    out: Annotated[str, typer.Option("-o", "--out", help="File to write, folder for several, or - (standard output).")],
    background: Annotated[
        str, typer.Option(help="Colour name, #rrggbb, transparent, blur, blur:SIGMA, or a picture's path.")
    ] = "white",
    keep: Annotated[list[str] | None, typer.Option(help="Label of what is the subject; repeat it for several.")] = None,
    model: Annotated[str, typer.Option(help="Model, as `mattebox models` names it.")] = "",
    matte: Annotated[MatteMethod | None, typer.Option(help="How the matte is made.")] = None,
    blur_kernel: Annotated[int | None, typer.Option(help="Kernel of the gaussian matte in pixels, odd.")] = None,
    keep_edge_colors: Annotated[
        bool, typer.Option("--keep-edge-colors", help="Leave the old background's colour in the edge.")
    ] = False,
    image_format: Annotated[
        ImageFormat | None, typer.Option("--format", help="Default: by the suffix of --out; png in a folder.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.")] = None,
    size: Annotated[str, typer.Option(help="original, model, or the longest side in pixels.")] = "original",
    crop: Annotated[int | None, typer.Option(help="Cut to the subject and so many pixels around it.")] = None,
    alpha: Annotated[
        str | None, typer.Option(help="Also write the matte, as PNG: a file, or in a folder {stem}-alpha.png.")
    ] = None,
    alpha_only: Annotated[bool, typer.Option("--alpha-only", help="Write the matte instead of a composite.")] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Names in a folder: {stem} and {old_suffix} of the photo, {suffix}.", show_default=NAME),
    ] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out what has a result.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Photos under way at a time.")] = 8,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what comes into folders.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each photo, and one for all.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds until a photo is given up.")] = 60,
) -> None:
    """Removes the background of photos: of one, or of all in folders, some at a time."""
    folder = goes_into_a_folder(photos, out) or watch
    if STANDARD in (out, alpha) and (as_json or alpha == STANDARD or folder):
        raise ValueError(
            f"{'--alpha -: name a file' if alpha == STANDARD else '--out -: is for one photo, not for --json'}"
        )
    format_ = image_format or ("png" if folder else _format(out))
    output = Output(format_, quality, _size(size), crop, alpha is not None, alpha_only)
    options = RemovalOptions(model, keep or (), Matte(matte, blur_kernel, keep_edge_colors), background, output)
    with connection.open() as client:
        run = _Run(client, options, concurrency, timeout)
        if watch:
            _watch(run, photos, Path(out), Naming(name or NAME, alpha, format_), skip_existing, as_json)
        elif folder:
            plan = plan_folder(photos, Path(out), Naming(name or NAME, alpha, format_), skip_existing).checked()
            _finish(run, Report(len(plan.jobs), as_json, several=True), plan)
        elif name is not None:
            raise ValueError(f"--name {name}: is for a folder, and --out {out} is a file")
        else:
            _one(run, Report(1, as_json, several=False), Job.of_one(photos[0], out, alpha), skip_existing)


@dataclass(frozen=True)
class _Run:
    """How photos are sent."""

    client: Client
    options: RemovalOptions
    concurrency: int
    timeout_s: float

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, StreamResult]]:
        """As they finish."""
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

    def all(self, jobs: Sequence[Job], report: Report) -> None:
        """Raises Unavailable if no server has answered anything yet; other errors are the photo's."""
        for job, item in self.results(jobs):
            if item.result is None:
                if isinstance(item.error, Unavailable) and not report.done:
                    raise item.error
                report.fail(job, item.error or RuntimeError("no result"))
                continue
            try:
                if job.target is not None:
                    job.target.parent.mkdir(parents=True, exist_ok=True)
                write(job, item.result)
            except OSError as error:
                report.fail(job, error)
            else:
                report.succeed(job, item.result)


def _one(run: _Run, report: Report, job: Job, skip_existing: bool) -> None:
    """Its error is the command's. Raises what the call raises."""
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
            typer.echo(f"{job.target}: there already", err=True)


def _finish(run: _Run, report: Report, plan: Plan) -> None:
    """Exits with 1 if any failed."""
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


def _watch(run: _Run, photos: Sequence[str], out: Path, naming: Naming, skip_existing: bool, as_json: bool) -> None:
    """Goes on until Ctrl-C; then exits with 1 if any failed."""
    if not all(Path(photo).is_dir() for photo in photos):
        raise ValueError("--watch: name folders")
    if any(Path(photo).resolve() == out.resolve() for photo in photos):
        raise ValueError(f"--watch: --out {out} is watched itself: results would be taken as photos")
    news, report = News(), Report(None, as_json, several=True)
    plan = plan_folder(photos, out, naming, skip_existing).checked()
    if skip_existing:  # what has a result is known, and taken again only when it changes
        news.know(set(plan_folder(photos, out, naming, False).jobs) - set(plan.jobs))
    try:
        while True:
            _take(run, report, plan, news.of(plan.jobs))
            time.sleep(_WATCH_S)
            plan = plan_folder(photos, out, naming, False)
    except (KeyboardInterrupt, SystemExit) as stop:
        report.summarise(plan.other, 0)
        if isinstance(stop, SystemExit):
            raise
    if report.failures:
        raise typer.Exit(1)


def _take(run: _Run, report: Report, plan: Plan, jobs: Sequence[Job]) -> None:
    """A new photo whose result would replace another's fails alone: the watch goes on."""
    for job in jobs:
        if job in plan.clashes:
            report.fail(job, ValueError(plan.clashes[job]))
    run.all([job for job in jobs if job not in plan.clashes], report)


def _source(job: Job) -> bytes | Path:
    return standard(sys.stdin, "standard input").read() if job.source is None else job.source


def _format(out: str) -> ImageFormat:
    suffix = Path(out).suffix.lower()
    if out == STANDARD or suffix in SUFFIXES:
        return SUFFIXES.get(suffix, "png")
    raise ValueError(f"--out {out}: what format? Take a suffix of {', '.join(SUFFIXES)}, or say --format")


def _size(word: str) -> Size:
    if word.isdecimal():
        return int(word)
    if word == "original":
        return "original"
    if word == "model":
        return "model"
    raise ValueError(f"--size {word}: must be original, model, or a number of pixels")
