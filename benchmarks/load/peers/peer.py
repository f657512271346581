"""A peer as a subject of the load generator."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from material import u2netp_file

from load.drivers import CannotRun
from load.peers.callers import OK, PeerCaller
from load.peers.environment import CACHE, Environment

SERVERS = Path(__file__).parent / "servers"

_KEEPER = Path(__file__).parent / "keeper.py"
_WEIGHTS = CACHE / "peers" / "u2netp.onnx"
_START_S = 300.0
_END_S = 60.0
_PAUSE_S = 0.05
_PNG = b"\x89PNG"


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Args:
        binaries: folder of the environment's `python`.
        port: port of 127.0.0.1 to listen on.
        model: file of U²-Net-p, as rembg has it.
        folder: empty folder for the server's files, which is removed when the server has ended.
    """

    binaries: Path
    port: int
    model: Path
    folder: Path


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Args:
        command: program and arguments.
        variables: environment variables, added to those of the benchmark.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class RunningPeer:
    """A running server.

    Args:
        port: port on which the server listens.
        keeper: id of the process of which all processes of the server are descendants.
        caller: function that opens a connection to a port.
    """

    port: int
    keeper: int
    caller: Callable[[int], PeerCaller]

    @property
    def pids(self) -> list[int]:
        """The ids of the server's processes, as they are now."""
        return [each.pid for each in psutil.Process(self.keeper).children(recursive=True) if runs(each)]

    async def connect(self) -> PeerCaller:
        """Opens a new connection."""
        return self.caller(self.port)


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    Args:
        name: name in the report.
        settings: settings in the report.
        environment: virtual environment of the server.
        launch: function of a place that says how the server is started there.
        caller: function that opens a connection to a port.
        photo: JPEG file that the server has to answer before it counts as started.
    """

    name: str
    settings: Mapping[str, str]
    environment: Environment
    launch: Callable[[Place], Launch]
    caller: Callable[[int], PeerCaller]
    photo: bytes

    def prepare(self) -> None:
        """Makes the environment and fetches the network.

        Raises:
            CannotRun: the environment can't be made.
        """
        self.environment.prepare()
        u2netp_file(_WEIGHTS.parent)

    @contextmanager
    def start(self) -> Generator[RunningPeer]:
        """Runs the server until the end of the block.

        Raises:
            CannotRun: the server doesn't answer; the message holds the end of its log.
        """
        # The name is short, because Ray puts sockets into the folder, whose paths may have 107 characters.
        with tempfile.TemporaryDirectory(prefix="peer", ignore_cleanup_errors=True) as name:
            place = Place(self.environment.binaries, _free_port(), _WEIGHTS, Path(name))
            log = Path(name) / "log"
            with _kept(self.launch(place), log) as keeper:
                failed = _run_apart(_until_it_answers(lambda: self.caller(place.port), self.photo, keeper))
                if failed:
                    raise CannotRun(f"the server {failed}: {log.read_text(errors='replace').strip()[-1000:]}")
                yield RunningPeer(place.port, keeper.pid, self.caller)


def runs(process: psutil.Process) -> bool:
    """Returns whether a process is there and no zombie."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _kept(launch: Launch, log: Path) -> Generator["subprocess.Popen[bytes]"]:
    """Runs the server under its keeper until the end of the block."""
    # The benchmark's PYTHONPATH must not lead the peer's Python to this checkout.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, str(_KEEPER), *launch.command]
    with log.open("wb") as out:
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=ours | dict(launch.variables),
            start_new_session=True,
        )
    try:
        yield keeper
    finally:
        keeper.terminate()
        keeper.communicate(timeout=_END_S)


def _run_apart(work: Coroutine[None, None, str]) -> str:
    """Runs a coroutine in a thread, as the caller's thread may have a running event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _until_it_answers(
    open_caller: Callable[[], PeerCaller], photo: bytes, keeper: "subprocess.Popen[bytes]"
) -> str:
    """Waits until the server answers; returns "" then, else the reason.

    Each attempt opens a new connection, because gRPC waits longer and longer before it tries a failed one again.
    """
    until_s = time.monotonic() + _START_S
    status = ""
    while (left_s := until_s - time.monotonic()) > 0 and keeper.poll() is None:
        caller = open_caller()
        try:
            status, file = await caller.fetch(photo, left_s)
        finally:
            await caller.close()
        if status == OK and file.startswith(_PNG):
            return ""
        await asyncio.sleep(_PAUSE_S)
    return "has ended" if keeper.poll() is not None else f"didn't answer in {_START_S:.0f} s ({status})"


def _free_port() -> int:
    """Returns a free port. If another process takes it first, the start fails, and no figure is wrong."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
