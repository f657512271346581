"""What a server costs: memory, processor time when nobody calls, time to start, disk."""

import asyncio
import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from packaging.requirements import Requirement

from load.bench import Bench
from load.drivers import CannotRun, Subject
from load.generator import one_call
from load.peers.peer import Peer


@dataclass(frozen=True)
class Footprint:
    """The costs of a server. Memory is the proportional set size (PSS), which counts shared pages once.

    Args:
        idle_bytes: memory after the warm-up.
        loaded_bytes: memory after all loads.
        idle_cores: processor time when nobody calls, in cores.
        starts_s: seconds from the command to the first answer, of each start.
        installed_bytes: disk space of the server's packages.
    """

    idle_bytes: int
    loaded_bytes: int
    idle_cores: float
    starts_s: tuple[float, ...]
    installed_bytes: int

    @property
    def start_s(self) -> float:
        """The median of the starts."""
        return median(self.starts_s)


def memory_bytes(bench: Bench) -> int:
    """Returns the PSS of all processes of the server."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in bench.server.pids)


async def idle_cores(bench: Bench, seconds: float) -> float:
    """Returns the cores that the server uses over this many seconds in which nobody calls."""

    def used_s() -> float:
        times = [psutil.Process(pid).cpu_times() for pid in bench.server.pids]
        return sum(time.user + time.system for time in times)

    before_s = used_s()
    await asyncio.sleep(seconds)
    return max(0.0, used_s() - before_s) / seconds


def start_seconds(subject: Subject, photo: bytes, timeout_s: float) -> float:
    """Returns the seconds from the command to the first answer; raises CannotRun."""
    began_s = time.monotonic()
    with subject.start() as server:

        async def first() -> str:
            caller = await server.connect()
            call = await one_call(caller, photo, began_s, timeout_s)
            await caller.close()
            return call.answer.status

        status = asyncio.run(first())
        took_s = time.monotonic() - began_s
    if status != "OK":
        raise CannotRun(f"its first answer is {status}")
    return took_s


def installed_bytes(subject: Subject) -> int:
    """Returns the size of a peer's environment, or of Mattebox with the extra `cpu` and its dependencies."""
    if isinstance(subject, Peer):
        return subject.environment.size_bytes()
    sizes: dict[str, int] = {}
    _add_sizes("mattebox", "cpu", sizes)
    return sum(sizes.values())


def _add_sizes(name: str, extra: str, sizes: dict[str, int]) -> None:
    """Adds the sizes of a distribution's files and, recursively, of the distributions that it requires."""
    key = f"{name.lower()}[{extra}]"
    if key in sizes:
        return
    distribution = importlib.metadata.distribution(name)
    counted = any(other.split("[")[0] == name.lower() for other in sizes)
    files = [] if counted else [Path(str(file.locate())) for file in distribution.files or ()]
    sizes[key] = sum(file.stat().st_size for file in files if file.is_file())
    for text in distribution.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            for more in ("", *needed.extras):
                _add_sizes(needed.name, more, sizes)
