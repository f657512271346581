"""The blocking client."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import grpc

from mattebox import _core
from mattebox.batches import NamedPhoto, OnError, Slot, StreamResult, Window
from mattebox.errors import DeadlineExceeded, MatteboxError, Unavailable, from_status, request_id_of
from mattebox.messages import build_request, options_message, with_photo
from mattebox.options import Background, Matte, MatteMethod, Output, RemovalOptions
from mattebox.photos import PhotoSource
from mattebox.results import Models, RemovalResult, parse_models, parse_result
from mattebox.security import Tls
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    _Call: TypeAlias = grpc._CallFuture[pb.RemoveBackgroundResponse]  # pyright: ignore[reportPrivateUsage]


@dataclass(eq=False)
class _Pending:
    """A call under way, and what it takes to make it again."""

    request: pb.RemoveBackgroundRequest
    attempts: _core.Attempts
    call: _Call


class Client:
    """Calls a Mattebox server. Safe to share between threads; close it, or use it as a context manager.

    >>> with mattebox.Client("127.0.0.1:50051") as client:
    ...     result = client.remove_background("photo.jpg", background="transparent")
    >>> result.format
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
        connection = _core.Connection(address, tls, token, retries, max_message_bytes, allow_insecure, keepalive)
        target, credentials, options = connection.target, connection.credentials, connection.options
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._metadata, self._retries = connection.metadata, retries
        self._stub = pb_grpc.BackgroundRemovalServiceStub(self._channel)

    def remove_background(
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

        >>> output = mattebox.Output(format="jpeg", quality=85, size=64)
        >>> result = mattebox.Client().remove_background("photo.jpg", background="#ff8800", output=output)
        >>> max(result.width, result.height)
        64

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
        request = build_request(photo, RemovalOptions(model, keep, matte, background, output))
        pending = self._start(request, _core.checked_timeout(timeout))
        while (result := self._finish(pending)) is None:
            pass
        return result

    def remove_backgrounds(
        self,
        photos: Iterable[NamedPhoto],
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
    ) -> Iterator[StreamResult]:
        """Removes the backgrounds of many photos, some at a time, all with the same options.

        Photos are taken as there is room for them, so that `photos` may be a generator without an end. Leaving the loop
        early cancels what is under way.

        >>> photos = [("first", "photo.jpg"), ("second", "photo.jpg")]
        >>> for item in mattebox.Client().remove_backgrounds(photos, ordered=True):
        ...     print(item.id, item.result.format)
        first png
        second png

        Args:
            photos: photos, or pairs of an id and a photo; without ids they are numbered from "0" on.
            concurrency: photos under way at a time, those included that wait to be given out.
            ordered: give them out in the order of `photos`, else as they finish.
            errors: "raise" ends with the first error; "return" puts it into the `StreamResult` and goes on.
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
        request = options_message(RemovalOptions(model, keep, matte, background, output))
        return self._run(iter(photos), window, request, _core.checked_timeout(timeout))

    def _run(
        self, photos: Iterator[NamedPhoto], window: Window, options: pb.RemoveBackgroundRequest, timeout_s: float | None
    ) -> Iterator[StreamResult]:
        """Keeps the window full until there are no more photos."""
        ended: SimpleQueue[Slot] = SimpleQueue()
        running: dict[Slot, _Pending] = {}
        more = True
        try:
            while more or window:
                while more and window.has_room:
                    item = next(photos, None)
                    more = item is not None
                    if item is not None:
                        slot, photo = window.open(item)
                        try:
                            running[slot] = self._start(with_photo(options, photo), timeout_s)
                        except (MatteboxError, OSError) as error:
                            slot.outcome = StreamResult(slot.id, error=error)
                            ended.put(slot)
                        else:
                            running[slot].call.add_done_callback(_putting(slot, ended))
                if window:
                    self._settle(ended.get(), running, ended)
                    yield from window.ready()
        finally:
            for pending in running.values():
                pending.call.cancel()

    def _settle(self, slot: Slot, running: dict[Slot, _Pending], ended: SimpleQueue[Slot]) -> None:
        """Takes in how a photo's call has ended."""
        if slot.outcome is not None:  # its photo could not be read: there was no call
            return
        try:
            result = self._finish(running[slot])
        except MatteboxError as error:
            slot.outcome = StreamResult(slot.id, error=error)
        else:
            if result is None:
                running[slot].call.add_done_callback(_putting(slot, ended))
                return
            slot.outcome = StreamResult(slot.id, result)
        del running[slot]

    def _start(self, request: pb.RemoveBackgroundRequest, timeout_s: float | None) -> _Pending:
        attempts = _core.Attempts(self._retries, timeout_s)
        return _Pending(request, attempts, self._begin(request, timeout_s))

    def _begin(self, request: pb.RemoveBackgroundRequest, timeout_s: float | None) -> _Call:
        return _begun(lambda: self._stub.RemoveBackground.future(request, timeout=timeout_s, metadata=self._metadata))

    def _finish(self, pending: _Pending) -> RemovalResult | None:
        """Waits for the end of an attempt. None if there is another now. Raises MatteboxError."""
        call = pending.call
        try:
            code = call.code()
        except BaseException:  # such as KeyboardInterrupt: nobody waits for it any longer
            call.cancel()
            raise
        initial = call.initial_metadata() or ()
        if code is grpc.StatusCode.OK:
            return parse_result(call.result(), request_id_of(initial))
        if pending.attempts.another(code, initial):
            pending.call = self._begin(pending.request, pending.attempts.timeout_s)
            return None
        raise from_status(code, call.details() or "", initial, call.trailing_metadata() or ())

    def models(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> Models:
        """The server's models and limits. Raises MatteboxError.

        >>> mattebox.Client().models().default
        'u2netp'
        """
        try:
            response = self._stub.ListModels(
                pb.ListModelsRequest(), timeout=_core.checked_timeout(timeout), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _core.error_of(error) from error
        return parse_models(response)

    def ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> bool:
        """Whether a server is there and answers requests now. Raises MatteboxError if it fails in another way."""
        return self.why_not_ready(timeout=timeout) is None

    def why_not_ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> str | None:
        """None if a server is there and answers requests now, else the reason. Raises as `ready` does."""
        return self._why_not_ready(_core.checked_timeout(timeout))

    def wait_until_ready(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> None:
        """Waits until a server is there and answers requests.

        Raises:
            DeadlineExceeded: none was, for so many seconds; with the reason.
            MatteboxError: it fails in another way.
        """
        patience = _core.Patience(_core.checked_timeout(timeout))
        while patience.goes_on(self._why_not_ready_yet(patience.next_s())):
            time.sleep(_core.READY_INTERVAL_S)

    def _why_not_ready_yet(self, timeout_s: float) -> str | None:
        try:
            return self._why_not_ready(timeout_s)
        except DeadlineExceeded as error:
            return str(error)

    def _why_not_ready(self, timeout_s: float | None) -> str | None:
        """None if a server serves."""
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_core.HEALTH_METHOD)
        try:
            answer = check(_core.HEALTH_REQUEST, timeout=timeout_s)
        except grpc.RpcError as error:
            reason = _core.error_of(error)
            if isinstance(reason, Unavailable):
                return str(reason)
            raise reason from error
        return None if answer == _core.HEALTH_SERVING else _core.NOT_SERVING

    def close(self) -> None:
        """Closes the connection; calls that run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _putting(slot: Slot, ended: SimpleQueue[Slot]) -> Callable[[object], None]:
    """What gRPC is to do when the slot's call has ended; a thread of its own does it."""
    return lambda _: ended.put(slot)


def _begun(begin: Callable[[], _Call]) -> _Call:
    """The call, begun where signals interrupt nothing.

    Ctrl-C raises wherever the main thread is; within gRPC, that leaves a half-made call for whose end `close` would
    wait for ever. It interrupts the waiting here instead, and the call is cancelled.
    """
    if threading.current_thread() is not threading.main_thread():
        return begin()
    pool = ThreadPoolExecutor(1)
    begun = pool.submit(begin)
    pool.shutdown(wait=False)  # its thread ends with the call's beginning
    try:
        return begun.result()
    except BaseException:
        begun.add_done_callback(_cancel)
        raise


def _cancel(begun: Future[_Call]) -> None:
    """Unless there is no call, as beginning it has failed."""
    if begun.exception() is None:
        begun.result().cancel()
