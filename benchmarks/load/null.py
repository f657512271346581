"""A server that waits for a known time and does nothing else, so that what the generator adds can be measured.

`python -m load.null SECONDS` listens on a free port of loopback, writes the port, and ends with its standard input.
"""

import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from chaos.callers import channel_to
from grpc import aio

from load.drivers import Answer, CannotRun

METHOD = "/load.Null/Wait"
_THREADS = 64


class NullCaller:
    """A channel to the null server.

    Args:
        port: port of the server.
    """

    def __init__(self, port: int) -> None:
        self._channel = channel_to(f"127.0.0.1:{port}")
        self._wait: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(METHOD)

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """Makes one call; the status is the name of gRPC's."""
        try:
            answer = await self._wait(photo, timeout=timeout_s)
        except aio.AioRpcError as error:
            return Answer(error.code().name, 0, {})
        return Answer("OK", len(answer), {})

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


@dataclass(frozen=True)
class NullServer:
    """A running null server.

    Args:
        port: port on which the server listens.
        pid: id of the server's process.
    """

    port: int
    pid: int

    @property
    def pids(self) -> list[int]:
        """The id of the server's only process."""
        return [self.pid]

    async def connect(self) -> NullCaller:
        """Opens a new connection."""
        return NullCaller(self.port)


@dataclass(frozen=True)
class Null:
    """The null server as a subject.

    Args:
        wait_s: seconds that each call takes.
        name: name in the report.
    """

    wait_s: float
    name: str = "null"

    @property
    def settings(self) -> Mapping[str, str]:
        """The time that the server waits."""
        return {"waits": f"{self.wait_s * 1e3:g} ms"}

    def prepare(self) -> None:
        """Does nothing, as the server needs nothing."""

    @contextmanager
    def start(self) -> Generator[NullServer]:
        """Runs the server until the end of the block."""
        command = [sys.executable, "-m", "load.null", str(self.wait_s)]
        folder = Path(__file__).parents[1]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
            port = process.stdout.readline() if process.stdout else ""
            if not port:
                raise CannotRun("the null server has ended")
            try:
                yield NullServer(int(port), process.pid)
            finally:
                process.communicate()


def main() -> int:
    """Runs the server until its standard input ends; returns the exit code."""
    wait_s = float(sys.argv[1])

    def wait(request: bytes, _: grpc.ServicerContext) -> bytes:
        if wait_s:
            time.sleep(wait_s)
        return request

    server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
    _, service, method = METHOD.split("/")
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
