"""Which photos a command takes, and to which file each result goes."""

from __future__ import annotations

import glob
import os
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mattebox.options import ImageFormat

STANDARD = "-"
SUFFIXES: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_PHOTO_SUFFIXES = {*SUFFIXES, ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif"}
_OUT_SUFFIXES: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp", "raw": "raw"}
_PLACEHOLDERS = ("stem", "old_suffix", "suffix")


@dataclass(frozen=True)
class Job:
    """One photo and the files of its results.

    Args:
        source: the photo's file; None for standard input.
        target: the result's file; None for standard output.
        alpha: the matte's file; None for no matte.
    """

    source: Path | None
    target: Path | None
    alpha: Path | None

    @property
    def name(self) -> str:
        """The photo's name in messages."""
        return STANDARD if self.source is None else str(self.source)

    @classmethod
    def of_one(cls, photo: str, out: str, alpha: str | None) -> Job:
        """Returns the job for one photo. Raises ValueError if a result would replace the photo or the other result."""
        source, target = (None if word == STANDARD else Path(word) for word in (photo, out))
        job = cls(source, target, None if alpha is None else Path(alpha))
        for text in find_clashes([job]).values():
            raise ValueError(text)
        return job

    @property
    def targets(self) -> tuple[Path, ...]:
        """All files that the job writes."""
        return tuple(each for each in (self.target, self.alpha) if each is not None)

    def is_done(self) -> bool:
        """Whether all results of the job exist."""
        return self.target is not None and all(each.exists() for each in self.targets)


@dataclass(frozen=True)
class Naming:
    """How results are named in a folder.

    Args:
        template: the name of a result; {stem} and {old_suffix} come from the photo's name, {suffix} from the format.
        alpha: the name of a matte, with the same placeholders; None for no matte.
        image_format: the format of the results.

    Raises:
        ValueError: a template holds an unknown placeholder, no {stem}, or a folder.
    """

    template: str
    alpha: str | None
    image_format: ImageFormat

    def __post_init__(self) -> None:
        for option, template in (("--name", self.template), ("--alpha", self.alpha)):
            if template is not None:
                _check_template(option, template)

    def job(self, source: Path, folder: Path) -> Job:
        """Returns the job for a photo whose result goes into a folder."""
        words = {"stem": source.stem, "old_suffix": source.suffix[1:], "suffix": _OUT_SUFFIXES[self.image_format]}
        alpha = None if self.alpha is None else folder / self.alpha.format(**words)
        return Job(source, folder / self.template.format(**words), alpha)


@dataclass(frozen=True)
class Plan:
    """The photos of a run.

    Args:
        jobs: the jobs in the order in which the photos were found.
        other: the number of files in folders that don't have the suffix of a photo.
        existing: the number of photos that are skipped because their results exist.
        clashes: jobs whose results would replace a photo or another result, and the reasons.
    """

    jobs: tuple[Job, ...]
    other: int
    existing: int
    clashes: dict[Job, str]

    def checked(self) -> Plan:
        """Returns the plan. Raises ValueError if it has a clash."""
        for text in self.clashes.values():
            raise ValueError(text)
        return self


def goes_into_a_folder(inputs: Sequence[str], out: str) -> bool:
    """Whether `out` is a folder: it exists as one, ends in a slash, or has to hold several results."""
    return _may_be_several(inputs) or out.endswith(("/", os.sep)) or Path(out).is_dir()


def _may_be_several(inputs: Sequence[str]) -> bool:
    return len(inputs) > 1 or any(Path(each).is_dir() or _is_pattern(each) for each in inputs)


def usual_out(inputs: Sequence[str], image_format: ImageFormat, watch: bool) -> str:
    """Returns where the result of one photo goes if nothing is said: beside the photo, or to standard output.

    Raises:
        ValueError: there are several photos.
    """
    if watch or _may_be_several(inputs):
        raise ValueError("-o FOLDER: several photos need a folder for their results")
    (photo,) = inputs
    return STANDARD if photo == STANDARD else str(Path(photo).with_suffix(f".mattebox.{_OUT_SUFFIXES[image_format]}"))


def plan_folder(inputs: Sequence[str], out: Path, naming: Naming, skip_existing: bool) -> Plan:
    """Plans files, folders with everything below them, and patterns.

    Raises:
        ValueError: standard input is among the inputs, or a pattern matches no file.
        OSError: a folder can't be read.
    """
    jobs, other = list[Job](), 0
    for given in inputs:
        if given == STANDARD:
            raise ValueError("-: standard input is one photo, whose result needs one file: -o FILE")
        path = Path(given)
        if path.is_dir():
            files = list(_files_of(path, out))
            photos = [file for file in files if file.suffix.lower() in _PHOTO_SUFFIXES]
            other += len(files) - len(photos)
            jobs += [naming.job(file, out / file.parent.relative_to(path)) for file in photos]
        else:
            jobs += [naming.job(file, out) for file in (_matches(given) if _is_pattern(given) else [path])]
    jobs = list({_same(job.source): job for job in jobs}.values())  # a file that is named twice is one photo
    kept = [job for job in jobs if not (skip_existing and job.is_done())]
    return Plan(tuple(kept), other, len(jobs) - len(kept), find_clashes(jobs))


def _files_of(folder: Path, out: Path) -> Iterator[Path]:
    """Yields all files below a folder, except those below `out` and those whose names begin with a dot."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        inside = Path(place)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and not _is_same(inside / each, out))
        yield from (inside / file for file in sorted(files) if not file.startswith("."))


def _refuse(error: OSError) -> None:
    """Raises the error of a folder that can't be read, which os.walk would ignore; ignores a deleted folder."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_same(path: Path, out: Path) -> bool:
    return path.resolve() == out.resolve()


def _same(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _is_pattern(given: str) -> bool:
    return any(sign in given for sign in "*?[") and not Path(given).exists()


def _matches(pattern: str) -> list[Path]:
    found = sorted(Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [path for path in found if path.is_file()]
    if not files:
        raise ValueError(f"{pattern}: the pattern matches no file")
    return files


def _check_template(option: str, template: str) -> None:
    known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    try:
        parts = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{option} {template}: {error}; the placeholders are {known}") from error
    for name in parts:
        if name not in _PLACEHOLDERS:
            raise ValueError(f"{option} {template}: there is no placeholder {{{name}}}; the placeholders are {known}")
    if not template or "/" in template or os.sep in template or "stem" not in parts:
        raise ValueError(
            f"{option} {template}: must be a file's name with {{stem}} in it; the placeholders are {known}"
        )


def find_clashes(jobs: Sequence[Job]) -> dict[Job, str]:
    """Returns the jobs whose results would replace a photo or another result, and the reasons."""
    sources = {_same(job.source) for job in jobs}
    taken: dict[Path, Job] = {}
    found: dict[Job, str] = {}
    for job in jobs:
        for target in job.targets:
            place = target.resolve()
            if place in sources:
                found[job] = f"{target} is one of the photos and would be replaced: choose another -o or --name"
            elif place in taken:
                found[job] = found[taken[place]] = _both(taken[place], job, target)
            taken[place] = job
    return found


def _both(first: Job, second: Job, target: Path) -> str:
    if first is second:
        return f"{first.name} and its matte would both become {target}: choose another --alpha"
    hint = "--name '{stem}-{old_suffix}.{suffix}' tells them apart"
    return f"{first.name} and {second.name} would both become {target}: {hint}"
