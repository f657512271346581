"""What a run leaves behind: `results.json`, from which the report is made and runs are compared."""

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
        name: of the subject.
        comparison: "same engine" or "as shipped".
        settings: what its figures depend on.
        reason: why it can't run; then there are no figures.
        closed: by callers at once.
        swept: by offered load.
        capacity: at the objective.
        footprint: what it costs.
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
        """Of it in plots and tables of several comparisons."""
        return f"{self.name}, {self.comparison}"


@dataclass(frozen=True)
class Results:
    """A run.

    Args:
        version: of this format.
        date: of its start, ISO 8601.
        command: that repeats it.
        commit: of the checkout; with "+" if it wasn't clean.
        machine: of `describe_machine`.
        photos: what was sent.
        options: of the run.
        generator: what the self-test measured.
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
        """As `results.json`."""
        (folder / FILE).write_bytes(_ADAPTER.dump_json(self, indent=1) + b"\n")


def load_results(folder: Path) -> Results:
    """Of a run's folder."""
    file = folder / FILE
    if not file.exists():
        raise SystemExit(f"load: there is no {file}")
    results = _ADAPTER.validate_json(file.read_bytes())
    if results.version != VERSION:
        raise SystemExit(f"load: {file} has format {results.version}, this program reads {VERSION}")
    return results


_ADAPTER = TypeAdapter(Results)
