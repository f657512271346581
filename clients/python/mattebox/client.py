"""The blocking client."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import TracebackType

import grpc

from mattebox import _core
from mattebox.errors import Unavailable, request_id_of
from mattebox.options import Background, Matte, MatteMethod, Output, PhotoSource, RemovalOptions, build_request
from mattebox.results import Models, RemovalResult, parse_models, parse_result
from mattebox.security import Tls
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc


class Client:
    """Calls a Mattebox server. Safe to share between threads; close it, or use it as a context manager.

    Args:
        address: HOST:PORT; or a list of IP:PORT, or "dns:///NAME:PORT" for all that the name stands for: those that
            serve are used in turn.
        tls: True to trust the system's authorities, or a `Tls`; without it nothing is encrypted.
        token: that the server asks for.
        retries: further attempts, 0 to 4, of a call that found no server, or none with room, within its timeout: after
            0.1 s, twice as long each time up to 3 s, or when the server says.
        max_message_bytes: largest request and largest answer.
        allow_insecure: send the token without TLS to other machines too.

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
    ) -> None:
        connection = _core.Connection(address, tls, token, retries, max_message_bytes, allow_insecure)
        target, credentials, options = connection.target, connection.credentials, connection.options
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._metadata = connection.metadata
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

        Args:
            photo: bytes of an image file, its path, an open binary file, or a `RawPhoto`.
            model: as `models` names it; "" for the server's default.
            keep: label or labels of what is the subject; empty for everything but the background.
            matte: a method, or a `Matte`; None for the server's default.
            background: a colour name, "#rrggbb", "transparent", the path of a picture, or a `Background`.
            output: format, size and extras; None for a PNG of the photo's size.
            timeout: seconds until the call is given up; None waits for ever.

        Raises:
            MatteboxError: the call failed; see `mattebox.errors` for the tree.
            OSError: photo or picture can't be read.
            ValueError, TypeError: an option is wrong in itself.
        """
        options = RemovalOptions(model, keep, matte, background, output or Output())
        request = build_request(photo, options)
        try:
            response, call = self._stub.RemoveBackground.with_call(
                request, timeout=_core.checked_timeout(timeout), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _core.error_of(error) from error
        return parse_result(response, request_id_of(call.initial_metadata() or ()))

    def models(self, *, timeout: float | None = _core.DEFAULT_TIMEOUT_S) -> Models:
        """The server's models and limits. Raises MatteboxError."""
        try:
            response = self._stub.ListModels(
                pb.ListModelsRequest(), timeout=_core.checked_timeout(timeout), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _core.error_of(error) from error
        return parse_models(response)

    def ready(self, *, timeout: float | None = _core.READY_TIMEOUT_S) -> bool:
        """Whether a server is there and answers requests now. Raises MatteboxError if it fails in another way."""
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_core.HEALTH_METHOD)
        try:
            answer = check(_core.HEALTH_REQUEST, timeout=_core.checked_timeout(timeout))
        except grpc.RpcError as error:
            reason = _core.error_of(error)
            if isinstance(reason, Unavailable):
                return False
            raise reason from error
        return answer == _core.HEALTH_SERVING

    def close(self) -> None:
        """Closes the connection; calls that run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
