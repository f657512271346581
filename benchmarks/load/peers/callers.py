"""One connection to a peer: HTTP, or gRPC of three kinds of messages."""

from abc import ABC, abstractmethod
from typing import Any

import aiohttp
import grpc
import grpc.aio

from load.drivers import Answer

OK = "OK"
LATE = "DEADLINE_EXCEEDED"
_NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class PeerCaller(ABC):
    """A photo's file there, a cutout's file back."""

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """As the load generator wants it. None of the peers says how long its stages took."""
        status, file = await self.fetch(photo, timeout_s)
        return Answer(status, len(file), {})

    @abstractmethod
    async def fetch(self, photo: bytes, timeout_s: float) -> tuple[str, bytes]:
        """A status, and the answer's file, empty if the status isn't OK."""

    @abstractmethod
    async def close(self) -> None:
        """Gives the connection back."""


class HttpCaller(PeerCaller):
    """A form with the photo, on a connection that is kept.

    Args:
        url: of the method.
        field: the form's name for the photo.
        others: further fields of the form.
    """

    def __init__(self, url: str, field: str, others: tuple[tuple[str, str], ...] = ()) -> None:
        self._url, self._field, self._others = url, field, others
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))  # an open loop never waits

    async def fetch(self, photo: bytes, timeout_s: float) -> tuple[str, bytes]:
        """Any HTTP status but 200 is "HTTP 503" and the like; a broken connection is aiohttp's name for it."""
        form = aiohttp.FormData(self._others)
        form.add_field(self._field, photo, filename="photo.jpg", content_type="image/jpeg")
        try:
            timeout = aiohttp.ClientTimeout(timeout_s)
            async with self._session.post(self._url, data=form, timeout=timeout) as response:
                file = await response.read()
        except TimeoutError:
            return LATE, b""
        except aiohttp.ClientError as error:
            return type(error).__name__, b""
        return (OK, file) if response.status == 200 else (f"HTTP {response.status}", b"")

    async def close(self) -> None:
        """Closes its connections."""
        await self._session.close()


class GrpcCaller(PeerCaller):
    """A unary method on a channel of its own.

    Args:
        address: HOST:PORT.
        method: its path.
        codec: the messages.
    """

    def __init__(self, address: str, method: str, codec: "Codec") -> None:
        alone = ("grpc.use_local_subchannel_pool", 1)  # else gRPC lets the channels share one connection
        self._channel = grpc.aio.insecure_channel(address, options=[*_NO_LIMIT, alone])
        self._call: Any = self._channel.unary_unary(method, codec.encode, codec.decode)

    async def fetch(self, photo: bytes, timeout_s: float) -> tuple[str, bytes]:
        """The status is gRPC's."""
        try:
            return OK, await self._call(photo, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name, b""

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class Codec(ABC):
    """Files in a peer's messages."""

    @abstractmethod
    def encode(self, file: bytes) -> bytes:
        """A photo's file in a request."""

    @abstractmethod
    def decode(self, message: bytes) -> bytes:
        """The cutout's file in an answer."""
