"""Mattebox as a subject."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from chaos.callers import channel_to
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
    """A channel that never retries, so that the server's refusals are counted.

    Args:
        address: HOST:PORT of the server.
    """

    def __init__(self, address: str) -> None:
        self._channel = channel_to(address)
        self._stub = pb_grpc.BackgroundRemovalServiceStub(self._channel)

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """Asks for a PNG cutout; the status is the name of gRPC's."""
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
    """A running server.

    Args:
        address: HOST:PORT of the server.
        pid: id of the server's process.
    """

    address: str
    pid: int

    @property
    def pids(self) -> list[int]:
        """The process ids of the server and of its children, as they are now."""
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]

    async def connect(self) -> OurCaller:
        """Opens a new connection."""
        return OurCaller(self.address)


class Mattebox:
    """The server of this checkout.

    Args:
        model: artifact that the server loads.
        flags: flags of `mattebox-server`.
    """

    name = "Mattebox"

    def __init__(self, model: Path, flags: Sequence[str]) -> None:
        self._model, self._flags = model, flags
        self._found: dict[str, str] = {}

    @property
    def settings(self) -> Mapping[str, str]:
        """The flags, and once the server is prepared, the provider and the precision that it reports."""
        asked = {"flags": " ".join(self._flags) or "none", "transport": "gRPC"}
        return {"model": self._model.name, **asked, "matte": "guided, edge colours estimated", **self._found}

    def prepare(self) -> None:
        """Starts the server once, which fills its cache, and asks it for its provider and precision."""
        with self.start() as server, mattebox.Client(server.address) as client:
            model = client.models().models[0]
            self._found = {"engine": f"{model.provider}, {model.precision}"}

    @contextmanager
    def start(self) -> Generator[OurServer]:
        """Runs the server until the end of the block; raises CannotRun."""
        server = LocalServer([self._model], self._flags)
        try:
            server.__enter__()
        except StartupError as error:
            raise CannotRun(str(error)) from error
        try:
            yield OurServer(server.address, server.pid)
        finally:
            server.stop()
