"""Connections to a peer, by HTTP or by gRPC."""

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
    """A connection that sends a photo's file and receives a cutout's file."""

    async def call(self, photo: bytes, timeout_s: float) -> Answer:
        """Makes a call for the load generator, without stages, as no peer reports them."""
        status, file = await self.fetch(photo, timeout_s)
        return Answer(status, len(file), {})

    @abstractmethod
    async def fetch(self, photo: bytes, timeout_s: float) -> tuple[str, bytes]:
        """Makes a call; returns the status and the answer's file, which is empty unless the status is OK."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connection."""


class HttpCaller(PeerCaller):
    """A caller that sends the photo as a form, on a connection that it keeps.

    Args:
        url: URL of the method.
        field: name of the photo's field in the form.
        others: names and values of the form's other fields.
    """

    def __init__(self, url: str, field: str, others: tuple[tuple[str, str], ...] = ()) -> None:
        self._url, self._field, self._others = url, field, others
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))  # an open loop never waits

    async def fetch(self, photo: bytes, timeout_s: float) -> tuple[str, bytes]:
        """Makes a call; the status is OK, such as "HTTP 503", or the name of aiohttp's error."""
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
        """Closes the connections."""
        await self._session.close()


class GrpcCaller(PeerCaller):
    """A caller of a unary method, on a channel of its own.

    Args:
        address: HOST:PORT of the server.
        method: path of the method.
        codec: encoding of the messages.
    """

    def __init__(self, address: str, method: str, codec: "Codec") -> None:
        alone = ("grpc.use_local_subchannel_pool", 1)  # else gRPC lets the channels share one connection
        self._channel = grpc.aio.insecure_channel(address, options=[*_NO_LIMIT, alone])
        self._call: Any = self._channel.unary_unary(method, codec.encode, codec.decode)

    async def fetch(self, photo: bytes, timeout_s: float) -> tuple[str, bytes]:
        """Makes a call; the status is the name of gRPC's."""
        try:
            return OK, await self._call(photo, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name, b""

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class Codec(ABC):
    """The encoding of files in a peer's messages."""

    @abstractmethod
    def encode(self, file: bytes) -> bytes:
        """Returns the request for a photo's file."""

    @abstractmethod
    def decode(self, message: bytes) -> bytes:
        """Returns the cutout's file of an answer."""
