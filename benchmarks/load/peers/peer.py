"""A peer as the load generator sees it: prepared, started, called, ended."""

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

from load.drivers import CannotRun
from load.peers.callers import OK, PeerCaller
from load.peers.environment import CACHE, Environment
from mattebox_export.onnx_core import u2netp_core

SERVERS = Path(__file__).parent / "servers"

_KEEPER = Path(__file__).parent / "keeper.py"
_WEIGHTS = CACHE / "peers" / "u2netp.onnx"
_START_S = 300.0
_END_S = 60.0
_PAUSE_S = 0.05
_PNG = b"\x89PNG"


@dataclass(frozen=True)
class Place:
    """What a server is told.

    Args:
        binaries: folder of its environment's `python`.
        port: to listen on, at 127.0.0.1.
        model: U²-Net-p, as rembg has it.
        folder: empty, for its own files; gone when it has ended.
    """

    binaries: Path
    port: int
    model: Path
    folder: Path


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Args:
        command: its program and arguments.
        variables: of its environment, beside those of the benchmark.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class RunningPeer:
    """A server that answers.

    Args:
        port: that it listens on.
        keeper: the process that all of the server's descend from.
        caller: opens a connection to a port.
    """

    port: int
    keeper: int
    caller: Callable[[int], PeerCaller]

    @property
    def pids(self) -> list[int]:
        """Of all its processes, as they are now."""
        return [each.pid for each in psutil.Process(self.keeper).children(recursive=True) if runs(each)]

    async def connect(self) -> PeerCaller:
        """A connection of one's own."""
        return self.caller(self.port)


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    Args:
        name: in the report.
        settings: in the report.
        environment: that its server runs in.
        launch: how it is started.
        caller: opens a connection to a port.
        photo: a small one, which it has to answer before it counts as started.
    """

    name: str
    settings: Mapping[str, str]
    environment: Environment
    launch: Callable[[Place], Launch]
    caller: Callable[[int], PeerCaller]
    photo: bytes

    def prepare(self) -> None:
        """Its environment and the network.

        Raises:
            CannotRun: with the reason.
        """
        self.environment.prepare()
        u2netp_core(_WEIGHTS.parent)

    @contextmanager
    def start(self) -> Generator[RunningPeer]:
        """The server, until the end of the block.

        Raises:
            CannotRun: it doesn't answer; with the end of what it wrote.
        """
        # Short, because Ray puts sockets into it, whose paths may have 107 characters.
        with tempfile.TemporaryDirectory(prefix="peer", ignore_cleanup_errors=True) as name:
            place = Place(self.environment.binaries, _free_port(), _WEIGHTS, Path(name))
            log = Path(name) / "log"
            with _kept(self.launch(place), log) as keeper:
                failed = _run_apart(_until_it_answers(lambda: self.caller(place.port), self.photo, keeper))
                if failed:
                    raise CannotRun(f"the server {failed}: {log.read_text(errors='replace').strip()[-1000:]}")
                yield RunningPeer(place.port, keeper.pid, self.caller)


def runs(process: psutil.Process) -> bool:
    """Neither gone nor about to be."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _kept(launch: Launch, log: Path) -> Generator["subprocess.Popen[bytes]"]:
    """The server's process under its keeper."""
    # What points Python at this checkout must not reach the peer's.
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
    """In a thread, as the caller may have an event loop of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _until_it_answers(
    open_caller: Callable[[], PeerCaller], photo: bytes, keeper: "subprocess.Popen[bytes]"
) -> str:
    """Why it doesn't, "" if it does. A new connection for each try, as gRPC waits ever longer on one that failed."""
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
    """Free now; whoever takes it before the server does makes that start fail, not the figures wrong."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
