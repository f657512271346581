"""The asyncio client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from mattebox import _core
from mattebox.batches import BatchResult, NamedPhoto, OnError, Slot, Window
from mattebox.errors import Cancelled, DeadlineExceeded, MatteboxError, Unavailable, request_id_of
from mattebox.messages import build_request, options_message, with_photo
from mattebox.options import Background, Matte, MatteMethod, Output, RemovalOptions
from mattebox.photos import PhotoSource
from mattebox.results import Models, RemovalResult, parse_models, parse_result
from mattebox.security import Tls
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc

T = TypeVar("T")


class AsyncClient:
    """Calls a Mattebox server. Make it where an event loop runs; close it, or use it as an async context manager.

    >>> async def cut_out() -> mattebox.RemovalResult:
    ...     async with mattebox.AsyncClient("127.0.0.1:50051") as client:
    ...         return await client.remove_background("photo.jpg", background="transparent")
    >>> asyncio.run(cut_out()).format
    'png'

    Args:
        address: HOST:PORT; or a list of IP:PORT, or "dns:///NAME:PORT" for all that the name stands for: those that
            serve are used in turn.
        tls: True to trust the system's authorities, or a `Tls`; without it nothing is encrypted.
        token: that the server asks for.
        retries: further attempts, 0 to 4, of a call that found no server, or none with room, within its timeout: after
            0.1 s, twice as long each time up to 3 s, or when the server says; none while most calls fail.
        max_message_bytes: largest request and largest answer.
        allow_insecure: send the token without TLS to other machines too.
        keepalive: seconds of silence during a call, 10 or more, after which the connection is tested; None: never.

    Raises:
        ValueError: an argument is wrong in itself.
        OSError: a file of `tls` can't be read.
    """

    def __init__(
        self,
        address: str | Sequence[str] = _core.DEFAULT_ADDRESS,
        *,
        tls: bool | Tls = False,
        token: str | None = None,
        retries: int = _core.MAX_RETRIES,
        max_message_bytes: int = _core.DEFAULT_MAX_MESSAGE_BYTES,
        allow_insecure: bool = False,
        keepalive: float | None = _core.DEFAULT_KEEPALIVE_S,
    ) -> None:
        asyncio.get_running_loop()  # a channel belongs to one loop: without one this raises, and says why
        connection = _core.Connection(address, tls, token, retries, max_message_bytes, allow_insecure, keepalive)
        target, credentials, options = connection.target, connection.credentials, connection.options
        self._channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self._metadata, self._retries = connection.metadata, retries
        self._closed = False
        self._stub = pb_grpc.BackgroundRemovalServiceStub(self._channel)

    async def remove_background(
        self,
        photo: PhotoSource,
        *,
        model: str = "",
        keep: str | Iterable[str] = (),
        matte: MatteMethod | Matte | None = None,
        background: Background | str | os.PathLike[str] = "white",
        output: Output | None = None,
        timeout: float | None = _core.DEFAULT_TIMEOUT_S,
    ) -> RemovalResult:
        """Removes the background of one photo.

        Args:
            photo: an image file as bytes, path or open binary file; a NumPy array (uint8; RGB, RGBA or grey); a picture
                of Pillow's; or a `RawPhoto`.
            model: as `models` names it; "" for the server's default.
            keep: label or labels of what is the subject; empty for everything but the background.
            matte: a method, or a `Matte`; None for the server's default.
            background: a colour name, "#rrggbb", "transparent", the path of a picture, or a `Background`.
            output: format, size and extras; None for a PNG of the photo's size.
            timeout: seconds until the call is given up; None waits for ever.

        Raises:
            MatteboxError: the call failed; see `mattebox.errors` for the tree. `InvalidRequest` is raised before
                anything is sent where that is possible.
            OSError: photo or picture can't be read.
            TypeError: an argument is of a wrong type.
        """
        options = RemovalOptions(model, keep, matte, background, output)
        request = await asyncio.to_thread(build_request, photo, options)  # it reads files
        return await self._call(request, _core.checked_timeout(timeout))

    def remove_backgrounds(
        self,
        photos: Iterable[NamedPhoto] | AsyncIterable[NamedPhoto],
        *,
        concurrency: int = _core.DEFAULT_CONCURRENCY,
        ordered: bool = False,
        errors: OnError = "raise",
        model: str = "",
        keep: str | Iterable[str] = (),
        matte: MatteMethod | Matte | None = None,
        background: Background | str | os.PathLike[str] = "white",
        output: Output | None = None,
        timeout: float | None = _core.DEFAULT_TIMEOUT_S,
    ) -> AsyncGenerator[BatchResult]:
        """Removes the backgrounds of many photos, some at a time, all with the same options.

        Photos are taken as there is room for them, so that `photos` may be a generator without an end, asynchronous or
        not. Leaving the loop early cancels what is under way, at once inside of `contextlib.aclosing`.

        >>> async def cut_out(photos: list[str]) -> list[str]:
        ...     async with mattebox.AsyncClient("127.0.0.1:50051") as client:
        ...         return [item.id async for item in client.remove_backgrounds(photos, ordered=True)]
        >>> asyncio.run(cut_out(["photo.jpg", "photo.jpg"]))
        ['0', '1']

        Args:
            photos: photos, or pairs of an id and a photo; without ids they are numbered from "0" on.
            concurrency: photos under way at a time, those included that wait to be given out.
            ordered: give them out in the order of `photos`, else as they finish.
            errors: "raise" ends with the first error; "return" puts it into the `BatchResult` and goes on.
            model: see `remove_background`, as for the other options.
            keep: see there.
            matte: see there.
            background: see there.
            output: see there.
            timeout: seconds until a photo is given up; None waits for ever.

        Raises:
            MatteboxError: an option is wrong, or a call failed and `errors` is "raise".
            OSError: the background's picture can't be read; or a photo, and `errors` is "raise".
            ValueError, TypeError: an argument is wrong in itself.
        """
        window = Window(concurrency, ordered, errors)
        options = RemovalOptions(model, keep, matte, background, output)
        return self._run(_asynchronous(photos), window, options, _core.checked_timeout(timeout))

    async def _run(
        self, photos: AsyncIterator[NamedPhoto], window: Window, options: RemovalOptions, timeout_s: float | None
    ) -> AsyncGenerator[BatchResult]:
        """Keeps the window full until there are no more photos."""
        message = await asyncio.to_thread(options_message, options)
        tasks: dict[asyncio.Task[BatchResult], Slot] = {}
        coming: asyncio.Task[NamedPhoto] | None = None
        more = True
        try:
            while more or tasks:
                if more and coming is None and window.has_room:
                    coming = asyncio.create_task(_next(photos))
                waited: list[asyncio.Task[Any]] = [*tasks, *([coming] if coming else [])]
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if coming in done:
                    try:
                        slot, photo = window.open(coming.result())
                    except StopAsyncIteration:
                        more = False
                    else:
                        tasks[asyncio.create_task(self._one(slot, photo, message, timeout_s))] = slot
                    coming = None
                for task in [task for task in tasks if task in done]:
                    tasks.pop(task).outcome = task.result()
                for result in window.ready():
                    yield result
        finally:
            left: list[asyncio.Task[Any]] = [*tasks, *([coming] if coming else [])]
            for running in left:
                running.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _one(
        self, slot: Slot, photo: PhotoSource, options: pb.RemoveBackgroundRequest, timeout_s: float | None
    ) -> BatchResult:
        try:
            request = await asyncio.to_thread(with_photo, options, photo)
            return BatchResult(slot.id, await self._call(request, timeout_s))
        except (MatteboxError, OSError) as error:
            return BatchResult(slot.id, error=error)
        except (TypeError, ValueError) as error:
            slot.note(error)
            raise

    async def _call(self, request: pb.RemoveBackgroundRequest, timeout_s: float | None) -> RemovalResult:
        attempts = _core.Attempts(self._retries, timeout_s)
        while True:
            self._check_open()
            call = self._stub.RemoveBackground(request, timeout=attempts.next_s(), metadata=self._metadata)
            try:
                response = await _answer(call)
            except Unavailable:
                if not attempts.may_repeat(await call.code(), await call.initial_metadata() or ()):
                    raise
            else:
                return parse_result(response, request_id_of(await call.initial_metadata() or ()))

    async def models(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> Models:
        """The server's models and limits. Raises MatteboxError."""
        self._check_open()
        timeout_s = _core.checked_timeout(timeout)
        call = self._stub.ListModels(pb.ListModelsRequest(), timeout=timeout_s, metadata=self._metadata)
        return parse_models(await _answer(call))

    async def ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> bool:
        """Whether a server is there and answers requests now. Raises MatteboxError if it fails in another way."""
        return await self.why_not_ready(timeout=timeout) is None

    async def why_not_ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> str | None:
        """None if a server is there and answers requests now, else the reason. Raises as `ready` does."""
        return await self._why_not_ready(_core.checked_timeout(timeout))

    async def wait_until_ready(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> None:
        """Waits until a server is there and answers requests.

        Raises:
            DeadlineExceeded: none was, for so many seconds; with the reason.
            MatteboxError: it fails in another way.
        """
        patience = _core.Patience(_core.checked_timeout(timeout))
        while patience.goes_on(await self._why_not_ready_yet(patience.next_s())):  # noqa: ASYNC110 - health is asked for
            await asyncio.sleep(_core.READY_INTERVAL_S)

    async def _why_not_ready_yet(self, timeout_s: float) -> str | None:
        try:
            return await self._why_not_ready(timeout_s)
        except DeadlineExceeded as error:
            return str(error)

    async def _why_not_ready(self, timeout_s: float | None) -> str | None:
        """None if a server serves."""
        self._check_open()
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_core.HEALTH_METHOD)
        try:
            answer = await _answer(check(_core.HEALTH_REQUEST, timeout=timeout_s))
        except Unavailable as error:
            return str(error)
        return None if answer == _core.HEALTH_SERVING else _core.NOT_SERVING

    async def close(self) -> None:
        """Closes the connection; calls that run are cancelled."""
        self._closed = True
        await self._channel.close()

    def _check_open(self) -> None:
        """Raises the same ValueError as the blocking client."""
        if self._closed:
            raise ValueError("the client is closed")

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _answer(call: Awaitable[T]) -> T:
    """A call's answer, or its error as the SDK's own."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _core.error_of(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Cancelled("the client was closed", code="CANCELLED") from error  # nobody cancelled the caller


async def _asynchronous(photos: Iterable[NamedPhoto] | AsyncIterable[NamedPhoto]) -> AsyncIterator[NamedPhoto]:
    if isinstance(photos, AsyncIterable):
        async for photo in photos:
            yield photo
    else:
        for photo in photos:
            yield photo


async def _next(photos: AsyncIterator[NamedPhoto]) -> NamedPhoto:
    """Returns the next photo, as a coroutine of which a task can be made. Raises StopAsyncIteration at the end."""
    return await anext(photos)
