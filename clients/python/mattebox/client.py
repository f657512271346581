"""The blocking client of a Mattebox server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType

import grpc

from mattebox import _core
from mattebox._calls import Batch, Removal, Starter
from mattebox.batches import BatchResult, NamedPhoto, OnError, Window
from mattebox.errors import DeadlineExceeded, Unavailable
from mattebox.messages import build_request, options_message, with_photo
from mattebox.options import Background, Matte, MatteMethod, Output, RemovalOptions
from mattebox.photos import PhotoSource
from mattebox.results import Models, RemovalResult, parse_models
from mattebox.security import Tls
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc


class Client:
    """Calls a Mattebox server. Threads may share a client; close it, or use it as a context manager.

    >>> with mattebox.Client("127.0.0.1:50051") as client:
    ...     result = client.remove_background("photo.jpg", background="transparent")
    >>> result.format
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
        connection = _core.Connection(address, tls, token, retries, max_message_bytes, allow_insecure, keepalive)
        target, credentials, options = connection.target, connection.credentials, connection.options
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._metadata, self._retries = connection.metadata, retries
        self._starter = Starter()
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
        request = build_request(photo, RemovalOptions(model, keep, matte, background, output))
        return self._begin(request, _core.checked_timeout(timeout)).result()

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
    ) -> Iterator[BatchResult]:
        """Removes the backgrounds of many photos, some at a time, all with the same options.

        A photo is taken when there is room for it, so `photos` may be an endless generator. Leaving the loop early
        cancels the photos that are under way.

        >>> photos = [("first", "photo.jpg"), ("second", "photo.jpg")]
        >>> for item in mattebox.Client().remove_backgrounds(photos, ordered=True):
        ...     print(item.id, item.result.format)
        first png
        second png

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
        request = options_message(RemovalOptions(model, keep, matte, background, output))
        timeout_s = _core.checked_timeout(timeout)
        return Batch(lambda photo: self._begin(with_photo(request, photo), timeout_s), window).run(iter(photos))

    def _begin(self, request: pb.RemoveBackgroundRequest, timeout_s: float | None) -> Removal:
        attempt = partial(self._stub.RemoveBackground.future, request, metadata=self._metadata)
        return Removal(self._starter, attempt, _core.Attempts(self._retries, timeout_s))

    def models(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> Models:
        """Returns the server's models and limits. Raises MatteboxError.

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
        """Whether a server answers requests now. Raises MatteboxError for any failure but `Unavailable`."""
        return self.why_not_ready(timeout=timeout) is None

    def why_not_ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> str | None:
        """Returns None if a server answers requests now, else the reason. Raises what `ready` raises."""
        return self._why_not_ready(_core.checked_timeout(timeout))

    def wait_until_ready(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> None:
        """Waits until a server answers requests.

        Raises:
            DeadlineExceeded: none did within `timeout` seconds; the text holds the reason.
            MatteboxError: asking failed for any reason but `Unavailable`.
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
        """Returns None if a server serves, else the reason why not."""
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
        """Closes the connection and cancels all calls."""
        self._channel.close()
        self._starter.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
