"""Many photos on one stream: some in flight at once, answered as they finish, each by itself right or wrong."""

from __future__ import annotations  # grpc is generic in its stubs only

import asyncio
import time
from collections.abc import Awaitable, Callable

from grpc import aio

from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.errors import InvalidRequest, Violation
from mattebox_server.records import Record
from mattebox_server.rpc.calls import CallerGone, Calls, Refused
from mattebox_server.rpc.wire import Context, Wire, read

MAX_ID_CHARACTERS = 128

Answer = Callable[[pb.RemoveBackgroundRequest, Record], Awaitable[pb.RemoveBackgroundResponse]]


class PhotoStream:
    """One stream. An answer must be out before another photo is read in its place: that is all the buffer there is.

    Args:
        context: of the stream.
        record: of the stream; each photo gets its own, whose id begins with the stream's.
        wire: limits of bytes and time.
        calls: counts and logs each photo.
        answer: makes the answer to one photo.
    """

    def __init__(self, context: Context, record: Record, wire: Wire, calls: Calls, answer: Answer) -> None:
        self._context, self._record, self._wire, self._calls = context, record, wire, calls
        self._answer = answer
        self._ids: set[str] = set()
        self._writing = asyncio.Lock()
        self._photos = 0

    async def run(self, max_in_flight: int, draining: asyncio.Event) -> bool:
        """Reads and answers photos until the caller has no more, or until the server drains.

        Returns:
            Whether the caller said that there are no more.

        Raises:
            CallerGone: an answer didn't get through.
            InvalidRequest: what was sent is no message, and so has no id to answer under.
        """
        window = asyncio.Semaphore(max_in_flight)
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await window.acquire()
                    message = await self._next(draining)
                    if not isinstance(message, pb.RemoveBackgroundStreamRequest):
                        break
                    task = tasks.create_task(self._serve(message))
                    task.add_done_callback(lambda _: window.release())
        except* (CallerGone, InvalidRequest) as group:
            raise group.exceptions[0] from None
        return message is aio.EOF

    async def _next(self, draining: asyncio.Event) -> object:
        """The next message, EOF, or None if the server drains."""
        reading, stopping = asyncio.create_task(read(self._context)), asyncio.create_task(draining.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            stopping.cancel()
            reading.cancel()

    async def _serve(self, message: pb.RemoveBackgroundStreamRequest) -> None:
        self._photos += 1
        record = Record(
            "RemoveBackgroundStream/photo",
            f"{self._record.request_id}-{self._photos}",
            time.monotonic(),
            self._record.deadline_s,
            self._record.caller,
            traceparent=self._record.traceparent,
        )
        try:
            async with self._calls.track(record):
                self._check_id(message.id)
                self._ids.add(message.id)
                try:
                    await self._respond(message, record)
                finally:
                    self._ids.discard(message.id)
        except Refused as refused:
            answer = pb.RemoveBackgroundStreamResponse(id=message.id, error=refused.refusal.proto)
            await self._send(answer, None)

    async def _respond(self, message: pb.RemoveBackgroundStreamRequest, record: Record) -> None:
        with self._wire.hold(message, record) as held:
            response = await self._answer(message.request, record)
            answer = pb.RemoveBackgroundStreamResponse(id=message.id, response=response)
            record.response_bytes = answer.ByteSize()
            held.become(record.response_bytes)
            await self._send(answer, record)

    async def _send(self, answer: pb.RemoveBackgroundStreamResponse, record: Record | None) -> None:
        async with self._writing:
            await self._wire.send(self._context, answer, record)

    def _check_id(self, photo_id: str) -> None:
        if not 1 <= len(photo_id) <= MAX_ID_CHARACTERS:
            raise InvalidRequest(Violation("id", f"must have 1 to {MAX_ID_CHARACTERS} characters"))
        if photo_id in self._ids:
            raise InvalidRequest(Violation("id", "is in flight on this stream already"))
