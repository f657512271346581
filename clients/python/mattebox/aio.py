"""The asyncio client of a Mattebox server."""

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
    """Calls a Mattebox server. Make it in a running event loop; close it, or use it as an async context manager.

    >>> async def cut_out() -> mattebox.RemovalResult:
    ...     async with mattebox.AsyncClient("127.0.0.1:50051") as client:
    ...         return await client.remove_background("photo.jpg", background="transparent")
    >>> asyncio.run(cut_out()).format
    'png'

    Args:
        address: HOST:PORT of one server; or a list of IP:PORT, or "dns:///NAME:PORT" for all addresses of a name: of
            several servers, those that serve are used in turn.
        tls: True to trust the system's authorities, False for no encryption, or a `Tls`.
        token: the token that the server asks for; None for none.
        retries: the number of further attempts within the timeout, 0 to 4, of a call that no server took: the first
            after 0.1 s, each next one after twice as long up to 3 s, or when the server asks for it; none while most
            calls fail.
        max_message_bytes: the largest request and the largest answer in bytes.
        allow_insecure: whether the token may be sent without TLS to other machines.
        keepalive: the seconds of silence in a call, 10 or more, after which the connection is tested; None for never.

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
        asyncio.get_running_loop()  # raises RuntimeError without a running loop, to which the channel would belong
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
            photo: an image file as bytes, path or open binary file; a NumPy array (uint8, RGB (H, W, 3), RGBA (H, W, 4)
                or grey (H, W)); a Pillow image; or a `RawPhoto`.
            model: the model's name, as `models` lists it; "" for the server's default model.
            keep: the label or the labels of the subject; empty for everything but the background.
            matte: the method, or a `Matte`; None for the server's default.
            background: a colour's name, "#rrggbb", "transparent", "blur", "blur:20" (sigma in pixels), the path of a
                picture, or a `Background`.
            output: the form of the answer; None for a PNG of the photo's size.
            timeout: the seconds after which the call is given up; None waits for ever.

        Raises:
            MatteboxError: the call failed; `mattebox.errors` lists the subclasses.
            OSError: the photo or the background's picture can't be read.
            TypeError: an argument is of a wrong type.
            ValueError: the timeout is NaN, a path is empty, or the client is closed.
        """
        options = RemovalOptions(model, keep, matte, background, output)
        request = await asyncio.to_thread(build_request, photo, options)  # reading a file blocks
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

        A photo is taken when there is room for it, so `photos` may be an endless generator, asynchronous or not.
        Leaving the loop early cancels the photos that are under way: at once within `contextlib.aclosing`, else when
        the generator is collected.

        >>> async def cut_out(photos: list[str]) -> list[str]:
        ...     async with mattebox.AsyncClient("127.0.0.1:50051") as client:
        ...         return [item.id async for item in client.remove_backgrounds(photos, ordered=True)]
        >>> asyncio.run(cut_out(["photo.jpg", "photo.jpg"]))
        ['0', '1']

        Args:
            photos: photos, or pairs of an id and a photo; photos without ids are numbered from "0" on.
            concurrency: the largest number of photos under way, including results that wait for their turn.
            ordered: whether results come in the order of `photos`, instead of as they finish.
            errors: "raise" ends the iteration with the first error; "return" puts errors into `BatchResult.error`.
            model: the model's name, as `models` lists it; "" for the server's default model.
            keep: the label or the labels of the subjects; empty for everything but the background.
            matte: the method, or a `Matte`; None for the server's default.
            background: the new background of all photos, in the forms that `remove_background` takes.
            output: the form of the answers; None for PNGs of the photos' sizes.
            timeout: the seconds after which a photo is given up; None waits for ever.

        Raises:
            MatteboxError: a message can't express the options, or a call failed and `errors` is "raise".
            OSError: the background's picture can't be read, or a photo can't be read and `errors` is "raise".
            TypeError: an option or a photo is of a wrong type.
            ValueError: `concurrency`, `errors` or `timeout` is out of range, or a path is empty.
        """
        window = Window(concurrency, ordered, errors)
        options = RemovalOptions(model, keep, matte, background, output)
        return self._run(_asynchronous(photos), window, options, _core.checked_timeout(timeout))

    async def _run(
        self, photos: AsyncIterator[NamedPhoto], window: Window, options: RemovalOptions, timeout_s: float | None
    ) -> AsyncGenerator[BatchResult]:
        """Keeps the window full until `photos` ends."""
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
        """Returns the server's models and limits. Raises MatteboxError."""
        self._check_open()
        timeout_s = _core.checked_timeout(timeout)
        call = self._stub.ListModels(pb.ListModelsRequest(), timeout=timeout_s, metadata=self._metadata)
        return parse_models(await _answer(call))

    async def ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> bool:
        """Whether a server answers requests now. Raises MatteboxError for any failure but `Unavailable`."""
        return await self.why_not_ready(timeout=timeout) is None

    async def why_not_ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> str | None:
        """Returns None if a server answers requests now, else the reason. Raises what `ready` raises."""
        return await self._why_not_ready(_core.checked_timeout(timeout))

    async def wait_until_ready(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> None:
        """Waits until a server answers requests.

        Raises:
            DeadlineExceeded: none did within `timeout` seconds; the text holds the reason.
            MatteboxError: asking failed for any reason but `Unavailable`.
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
        """Returns None if a server serves, else the reason why not."""
        self._check_open()
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_core.HEALTH_METHOD)
        try:
            answer = await _answer(check(_core.HEALTH_REQUEST, timeout=timeout_s))
        except Unavailable as error:
            return str(error)
        return None if answer == _core.HEALTH_SERVING else _core.NOT_SERVING

    async def close(self) -> None:
        """Closes the connection and cancels all calls."""
        self._closed = True
        await self._channel.close()

    def _check_open(self) -> None:
        """Raises ValueError if the client is closed, as the blocking client does."""
        if self._closed:
            raise ValueError("the client is closed")

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _answer(call: Awaitable[T]) -> T:
    """Returns a call's answer. Raises MatteboxError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _core.error_of(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The caller's task isn't cancelled, so the client was closed.
        raise Cancelled("the client was closed", code="CANCELLED") from error


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
