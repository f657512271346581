"""Models that are asked for by name: found in the cache folder, or else made there.

The exporter makes them in a process of its own, which downloads the weights, builds the graph and compares it with the
network. So the server holds none of the exporter's memory and libraries, and can end at any time.
"""

import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from mattebox_export.cached import artifact_path
from mattebox_export.catalogue import Entry, find_entry
from mattebox_export.files import locked
from mattebox_server.engine.config import ABILITIES, ProviderName, RequestedPrecision
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.engine.phases import phase
from mattebox_server.engine.providers import best_target
from mattebox_server.errors import StartupError
from mattebox_server.spec import Target

log = structlog.stdlib.get_logger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "mattebox_export.cli")
_ERROR = "mattebox-export: "  # begins the line with which the exporter ends if it fails


def is_name(model: str) -> bool:
    """Whether a model is asked for by name: a path has a dot or a slash, and a name has neither."""
    return not any(character in model for character in "./\\")


@dataclass(frozen=True)
class Making:
    """How models are made.

    Args:
        cache: the cache folder; None means that there is none, so that models can't be asked for by name.
        provider: execution provider that they are for.
        precision: precision that they are asked to run in.
        offline: whether nothing may be downloaded.
        accepted: names of the networks whose licences were accepted although they forbid commercial use.
        observer: gets a report of each model that was made.
    """

    cache: Path | None
    provider: ProviderName | Literal["auto"]
    precision: RequestedPrecision
    offline: bool
    accepted: Sequence[str]
    observer: EngineObserver

    @property
    def target(self) -> Target:
        """The target of the exports."""
        return best_target() if self.provider == "auto" else ABILITIES[self.provider].target

    @property
    def export_precision(self) -> str:
        """The precision of the exports: a file in fp32 serves those that a runtime makes of it."""
        return "fp32" if self.precision in ("tf32", "bf16") else self.precision


class Maker:
    """Finds models and makes those that are not there. One thread may call `files`, and any thread `close`."""

    def __init__(self, making: Making) -> None:
        self._making = making
        self._lock = threading.Lock()  # held by whoever starts or ends the exporter
        self._exporter: subprocess.Popen[str] | None = None
        self._closed = False

    def files(self, models: Sequence[str]) -> list[Path]:
        """Returns the file of each model, which is a path or a name.

        Raises:
            StartupError: a model can't be made.
        """
        return [self._find(find_entry(model)) if is_name(model) else Path(model) for model in models]

    def close(self) -> None:
        """Ends the exporter, if it runs."""
        with self._lock:
            self._closed = True
            if self._exporter is not None:
                self._exporter.kill()

    def _find(self, entry: Entry) -> Path:
        making = self._making
        if making.cache is None:
            raise StartupError(f"the model {entry.name} needs a cache folder to be made in: set cache_dir")
        path = artifact_path(making.cache, entry, making.target, making.export_precision)
        if not path.is_file():
            with phase("make", entry.name, making.provider, making.observer):
                self._make(entry, path)
        log.info("model found", model=entry.name, path=str(path))
        return path

    def _make(self, entry: Entry, path: Path) -> None:
        try:
            with locked(path):  # of several servers one makes the model, and the others wait
                if not path.is_file():
                    self._run(entry, path)
        except OSError as error:
            reason = f"can't write to the cache folder {self._making.cache}: {error.strerror}"
            raise StartupError(f"{reason}; cache_dir names another one") from error

    def _run(self, entry: Entry, path: Path) -> None:
        with self._lock:
            if self._closed:
                raise StartupError("the server was stopped")
            self._exporter = subprocess.Popen(  # noqa: S603
                self._command(entry, path),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        with self._exporter as exporter:
            reason = _read(exporter.stdout or (), entry.name)
        if exporter.returncode:
            raise StartupError(f"the model {entry.name} can't be made: {reason or f'exit code {exporter.returncode}'}")

    def _command(self, entry: Entry, path: Path) -> list[str]:
        making = self._making
        flags = ["--target", making.target, "--precision", making.export_precision, "--cache-dir", str(making.cache)]
        offline = ["--offline"] if making.offline else []
        accepted = [part for name in making.accepted for part in ("--accept-licence", name)]
        return [*_COMMAND, entry.name, "--output", str(path), *flags, *offline, *accepted]


def _read(output: Iterable[str], model: str) -> str:
    """Logs what the exporter prints, line by line, and returns its reason if it fails."""
    reason = ""
    for line in output:
        if line.startswith(_ERROR):
            reason = line.removeprefix(_ERROR).strip()
        elif line.strip():
            log.info("making the model", model=model, step=line.strip())
    return reason
