"""Mattebox as a subject."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from faults_load import channel_to
from grpc import aio

import mattebox
from load.drivers import Answer, CannotRun
from load.phase import SERVER_STAGES
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer

_OUTPUT = pb.Output(format=pb.IMAGE_FORMAT_PNG)
_BACKGROUND = pb.Background(transparent=pb.Transparent())


class OurCaller:
    """A channel of its own, without retries: what the server refuses shows.

    Args:
        address: HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        self._channel = channel_to(address)
        self._stub = pb_grpc.BackgroundRemovalServiceStub(self._channel)

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """A PNG cutout; the status is gRPC's."""
        request = pb.RemoveBackgroundRequest(encoded=photo, background=_BACKGROUND, output=_OUTPUT)
        try:
            response = await self._stub.RemoveBackground(request, timeout=timeout_s)
        except aio.AioRpcError as error:
            return Answer(error.code().name, 0, {})
        timings = response.timings
        stages_s = {name: getattr(timings, name).ToNanoseconds() / 1e9 for name in (*SERVER_STAGES, "total")}
        return Answer("OK", len(response.image), stages_s)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


@dataclass(frozen=True)
class OurServer:
    """A server that answers.

    Args:
        address: HOST:PORT.
        pid: of its process.
    """

    address: str
    pid: int

    @property
    def pids(self) -> list[int]:
        """Of all its processes, as they are now."""
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]

    async def connect(self) -> OurCaller:
        """A connection of one's own."""
        return OurCaller(self.address)


class Mattebox:
    """This checkout's server.

    Args:
        model: artifact.
        flags: of `mattebox-server`.
    """

    name = "Mattebox"

    def __init__(self, model: Path, flags: Sequence[str]) -> None:
        self._model, self._flags = model, flags
        self._found: dict[str, str] = {}

    @property
    def settings(self) -> Mapping[str, str]:
        """What was asked for, and once it is prepared, what the server says that it runs on."""
        told = {"flags": " ".join(self._flags) or "none", "transport": "gRPC"}
        return {"model": self._model.name, **told, "matte": "guided, edge colours estimated", **self._found}

    def prepare(self) -> None:
        """Starts it once, so that what it caches is there, and asks it what it runs on."""
        with self.start() as server, mattebox.Client(server.address) as client:
            model = client.models().models[0]
            self._found = {"engine": f"{model.provider}, {model.precision}"}

    @contextmanager
    def start(self) -> Generator[OurServer]:
        """The server, until the end of the block. Raises CannotRun."""
        server = LocalServer([self._model], self._flags)
        try:
            server.__enter__()
        except StartupError as error:
            raise CannotRun(str(error)) from error
        try:
            yield OurServer(server.address, server.pid)
        finally:
            server.stop()
