"""Virtual environments of the peers, whose packages conflict with Mattebox's and with each other's."""

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
    """Returns the interpreter that the current virtual environment was made with."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Environment:
    """A virtual environment, made on demand from `requirements/NAME.txt`, which pins all packages, and then kept.

    Args:
        name: name of the requirements and of the folder.
        interpreter: Python interpreter that the environment is made with.
        patches: lines that are replaced after the installation.
    """

    name: str
    interpreter: Path = field(default_factory=base_interpreter)
    patches: "tuple[Patch, ...]" = ()

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        return CACHE / "venvs" / self.name

    @property
    def binaries(self) -> Path:
        """The folder of `python` and of the peer's own commands."""
        return self.folder / "bin"

    def prepare(self) -> None:
        """Makes the environment, unless it is there and was made from the same requirements and patches.

        Raises:
            CannotRun: the environment can't be made.
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
        """Returns the versions of packages, such as "ray 2.60.0, onnxruntime 1.32.0"."""
        pins = dict(line.split("==") for line in self._requirements.read_text().split("\n") if "==" in line)
        return ", ".join(f"{package} {pins[package]}" for package in packages)

    def size_bytes(self) -> int:
        """Returns the size of all files of the environment."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())

    @property
    def _requirements(self) -> Path:
        return _REQUIREMENTS / f"{self.name}.txt"


@dataclass(frozen=True)
class Patch:
    """A replacement in an installed file, for behaviour that no setting changes.

    Args:
        file: glob of the file, relative to the environment's folder.
        before: text to replace, which must occur once.
        after: text in its place.
    """

    file: str
    before: str
    after: str

    def apply(self, folder: Path) -> None:
        """Replaces the text; raises CannotRun unless it occurs once, as the patch would then prevent nothing."""
        (path,) = folder.glob(self.file)
        text = path.read_text()
        if text.count(self.before) != 1:
            raise CannotRun(f"{path} doesn't hold {self.before!r} once")
        path.write_text(text.replace(self.before, self.after))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRun(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
