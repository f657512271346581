"""The results of a run and their file, `results.json`, from which reports are written and runs are compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from load.capacity import Capacity
from load.footprint import Footprint
from load.phase import Phase

FILE = "results.json"
VERSION = 1


@dataclass(frozen=True)
class Measured:
    """A subject in one comparison.

    Args:
        name: name of the subject.
        comparison: "same engine" or "as shipped".
        settings: settings on which the figures depend.
        reason: reason for which the subject can't run; "" if it ran.
        closed: closed loops, by number of callers.
        swept: open loops, by offered load.
        capacity: highest rate within the objective.
        footprint: memory, starts and disk space.
    """

    name: str
    comparison: str
    settings: dict[str, str]
    reason: str = ""
    closed: tuple[Phase, ...] = ()
    swept: tuple[Phase, ...] = ()
    capacity: Capacity | None = None
    footprint: Footprint | None = None

    @property
    def label(self) -> str:
        """The name in plots and tables of several comparisons."""
        return f"{self.name}, {self.comparison}"


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Args:
        version: version of this format.
        date: time of the start, ISO 8601.
        command: command that repeats the run.
        commit: commit of the checkout, followed by "+" if the checkout was modified.
        machine: facts of `describe_machine`.
        photos: name of the photos that were sent.
        options: options of the run.
        generator: figures of the self-test.
        measured: subjects, in the order in which they were measured.
    """

    version: int
    date: str
    command: str
    commit: str
    machine: dict[str, Any]
    photos: str
    options: dict[str, str]
    generator: dict[str, float]
    measured: tuple[Measured, ...]

    def save(self, folder: Path) -> None:
        """Writes `results.json` into a folder."""
        (folder / FILE).write_bytes(_ADAPTER.dump_json(self, indent=1) + b"\n")


def load_results(folder: Path) -> Results:
    """Reads the results in a run's folder; raises SystemExit if there are none of this version."""
    file = folder / FILE
    if not file.exists():
        raise SystemExit(f"load: there is no {file}")
    results = _ADAPTER.validate_json(file.read_bytes())
    if results.version != VERSION:
        raise SystemExit(f"load: {file} has format {results.version}, this program reads {VERSION}")
    return results


_ADAPTER = TypeAdapter(Results)
