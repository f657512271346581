"""The contract over gRPC: hands messages in and out, decides only whether to take them."""

from __future__ import annotations  # grpc is generic in its stubs only

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc
import structlog

from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.admission.admission import Entry
from mattebox_server.admission.lane import Origin
from mattebox_server.errors import NotServing
from mattebox_server.records import Record
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.request import RemovalRequest
from mattebox_server.rpc.calls import CallerGone, Calls, Refused
from mattebox_server.rpc.requests import parse_request
from mattebox_server.rpc.responses import build_models, build_response
from mattebox_server.rpc.wire import REQUEST_ID_KEY, Context, Wire, new_record
from mattebox_server.telemetry.levels import Levels, measure

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mattebox_server.rpc.access import Callers

log = structlog.stdlib.get_logger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["BackgroundRemovalService"].full_name

_MAX_NAME_CHARACTERS = 64
_STARTING_RETRY_S = 2.0
_DRAINING_RETRY_S = 1.0
_COPIES_OF_ANSWER = 2  # the serialised message, and gRPC's copy of it

Behavior = Callable[[Context, Record, Origin], Awaitable[None]]


class BackgroundRemovalService:
    """Answers once it has a pipeline, until it drains.

    Args:
        max_message_bytes: the size of the largest request, for ListModels to tell.
        wire: how messages come and go.
        calls: counts and logs the calls.
        callers: finds out who calls.
    """

    def __init__(self, max_message_bytes: int, wire: Wire, calls: Calls, callers: Callers) -> None:
        self._max_message_bytes, self._wire, self._calls, self._callers = max_message_bytes, wire, calls, callers
        self._pipeline: Pipeline | None = None
        self._is_draining = False

    def serve(self, pipeline: Pipeline) -> None:
        """Answers requests from now on."""
        self._pipeline = pipeline

    def drain(self) -> None:
        """Refuses new requests from now on; those that run go on."""
        self._is_draining = True

    def levels(self) -> Levels:
        """How full the server is now. Belongs to the event loop."""
        return measure(self._pipeline, self._pipeline is not None and not self._is_draining)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The contract's methods, to be added to a server."""
        methods = {
            "RemoveBackground": self._handler("RemoveBackground", self._remove_background, pb.RemoveBackgroundRequest),
            "ListModels": self._handler("ListModels", self._list_models, pb.ListModelsRequest),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    def _handler(self, name: str, behavior: Behavior, request: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(_: object, context: Context) -> None:
            record = new_record(name, context)
            try:
                async with self._calls.track(record):
                    await behavior(context, record, self._callers.origin(context, record))
            except CallerGone:
                raise asyncio.CancelledError from None  # ends the call without a word: it would not get through
            except Refused as refused:
                refusal = refused.refusal
                # Not as initial metadata: once those are there, gRPC's own retries give up.
                metadata = (*refusal.trailing_metadata, (REQUEST_ID_KEY, record.request_id))
                await context.abort(refusal.code, refusal.text, metadata)

        return grpc.stream_stream_rpc_method_handler(handle, request_deserializer=request.FromString)

    def _ready_pipeline(self) -> Pipeline:
        if self._is_draining:
            raise NotServing("the server is shutting down", _DRAINING_RETRY_S, "draining")
        if self._pipeline is None:
            raise NotServing("the server is starting", _STARTING_RETRY_S)
        return self._pipeline

    async def _remove_background(self, context: Context, record: Record, origin: Origin) -> None:
        """One photo in, one composite out."""
        pipeline = self._ready_pipeline()
        with pipeline.admission.entry(origin) as entry:
            answer = await self._answer(context, record, pipeline, entry)
            entry.memory.become(_COPIES_OF_ANSWER * len(answer))  # all else is gone with the frames that held it
            record.response_bytes = len(answer)
            await self._wire.send(context, answer, record)

    async def _answer(self, context: Context, record: Record, pipeline: Pipeline, entry: Entry) -> bytes:
        """Receives a request and works it out; returns the serialised answer."""
        answer = await pipeline.remove_background(await self._receive(context, record, entry), entry, record.times)
        record.model, record.provider = answer.network.spec.name, answer.network.provider
        record.batch_size = answer.batch_size
        record.width_px, record.height_px = answer.composite.size
        return build_response(answer, record.times).SerializeToString()

    async def _receive(self, context: Context, record: Record, entry: Entry) -> RemovalRequest:
        """Receives a request; its message, another copy of the photo, is gone when this returns."""
        message = cast("pb.RemoveBackgroundRequest", await self._wire.receive(context, record))
        record.request_bytes = message.ByteSize()
        entry.memory.take(record.request_bytes)
        record.model = message.model[:_MAX_NAME_CHARACTERS]  # the caller's words, until there is a model of that name
        log.debug("request started")
        return parse_request(message)

    async def _list_models(self, context: Context, record: Record, _: Origin) -> None:
        """The models that this server has, and its limits."""
        pipeline = self._ready_pipeline()
        await self._wire.receive(context, record)
        limits = pb.Limits(
            max_message_bytes=self._max_message_bytes,
            max_photo_bytes=pipeline.limits.max_bytes,
            max_photo_pixels=pipeline.limits.max_pixels,
        )
        answer = build_models(pipeline.engine, limits).SerializeToString()
        await self._wire.send(context, answer, record)
