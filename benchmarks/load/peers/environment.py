"""A peer's own virtual environment: what it needs can't live beside Mattebox, nor beside the other peers."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load.drivers import CannotRun

CACHE = Path(__file__).parents[2] / ".cache"
_REQUIREMENTS = Path(__file__).parent / "requirements"
_ROOM_BYTES = 3 * 2**30  # the largest takes 1.1 GB, and pip as much again while it installs
_STAMP = "requirements.sha256"


def base_interpreter() -> Path:
    """The Python that this environment was made with."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Environment:
    """Made on demand from `requirements/NAME.txt`, which pins all that is installed, and kept.

    Args:
        name: of the requirements, and of the folder.
        interpreter: what it is made with.
        patches: lines that are replaced once all is installed.
    """

    name: str
    interpreter: Path = field(default_factory=base_interpreter)
    patches: "tuple[Patch, ...]" = ()

    @property
    def folder(self) -> Path:
        """Of the environment."""
        return CACHE / "venvs" / self.name

    @property
    def binaries(self) -> Path:
        """The folder of `python` and of the peer's own commands."""
        return self.folder / "bin"

    def prepare(self) -> None:
        """Makes it, if it isn't there as the requirements want it.

        Raises:
            CannotRun: it can't be made.
        """
        stamp = self.folder / _STAMP
        wanted = hashlib.sha256(self._requirements.read_bytes() + repr(self.patches).encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        if not self.interpreter.exists():
            raise CannotRun(f"there is no {self.interpreter}")
        CACHE.mkdir(exist_ok=True)
        if shutil.disk_usage(CACHE).free < _ROOM_BYTES:
            raise CannotRun(f"{CACHE} has less than {_ROOM_BYTES / 2**30:.0f} GiB left")
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([str(self.interpreter), "-m", "venv", str(self.folder)])
        pip = [str(self.binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", "-r", str(self._requirements)])  # the file is complete; what it pins is what is tested
        for patch in self.patches:
            patch.apply(self.folder)
        stamp.write_text(wanted)

    def versions(self, packages: Sequence[str]) -> str:
        """What of these is installed, such as "ray 2.60.0, onnxruntime 1.32.0"."""
        pins = dict(line.split("==") for line in self._requirements.read_text().split("\n") if "==" in line)
        return ", ".join(f"{package} {pins[package]}" for package in packages)

    def size_bytes(self) -> int:
        """What its files take."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())

    @property
    def _requirements(self) -> Path:
        return _REQUIREMENTS / f"{self.name}.txt"


@dataclass(frozen=True)
class Patch:
    """A line of an installed file that no setting reaches.

    Args:
        file: as a glob, from the environment's folder.
        before: what stands there, once.
        after: what shall.
    """

    file: str
    before: str
    after: str

    def apply(self, folder: Path) -> None:
        """Raises CannotRun if it isn't there, or not once: then the peer would do what the patch prevents."""
        (path,) = folder.glob(self.file)
        text = path.read_text()
        if text.count(self.before) != 1:
            raise CannotRun(f"{path} doesn't hold {self.before!r} once")
        path.write_text(text.replace(self.before, self.after))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRun(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
