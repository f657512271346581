"""The contract over gRPC: hands messages in and out, decides only whether to take them."""

from __future__ import annotations  # grpc is generic in its stubs only

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import structlog
from google.protobuf.message import Message

from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.admission.admission import Origin
from mattebox_server.errors import NotServing, Unauthenticated
from mattebox_server.records import Record
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.request import RemovalRequest
from mattebox_server.rpc.access import Identify, authorizations
from mattebox_server.rpc.calls import CallerGone, Calls, Refused
from mattebox_server.rpc.requests import parse_request
from mattebox_server.rpc.responses import build_models, build_response
from mattebox_server.rpc.wire import REQUEST_ID_KEY, Context, Wire, new_record
from mattebox_server.telemetry.levels import Levels, measure

log = structlog.stdlib.get_logger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["BackgroundRemovalService"].full_name

_MAX_NAME_CHARACTERS = 64
_STARTING_RETRY_S = 2.0
_DRAINING_RETRY_S = 1.0

Behavior = Callable[[Context, Record], Awaitable[None]]


class BackgroundRemovalService:
    """Answers once it has a pipeline, until it drains.

    Args:
        max_message_bytes: of a request, for ListModels to tell.
        wire: how messages come and go.
        calls: counts and logs them.
        identify: the name of a caller's token; None asks for none.
    """

    def __init__(self, max_message_bytes: int, wire: Wire, calls: Calls, identify: Identify | None = None) -> None:
        self._max_message_bytes, self._wire, self._calls, self._identify = max_message_bytes, wire, calls, identify
        self._pipeline: Pipeline | None = None
        self._draining = asyncio.Event()

    def serve(self, pipeline: Pipeline) -> None:
        """From now on requests are answered."""
        self._pipeline = pipeline

    def drain(self) -> None:
        """From now on new requests are refused; those that run go on."""
        self._draining.set()

    def levels(self) -> Levels:
        """How full the server is now; to be asked on the event loop."""
        serving = self._pipeline is not None and not self._draining.is_set()
        return measure(self._pipeline, self._wire.budget, serving)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The contract's methods, to be added to a server."""
        methods = {
            "RemoveBackground": (self._remove_background, pb.RemoveBackgroundRequest),
            "ListModels": (self._list_models, pb.ListModelsRequest),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME, {name: self._handler(name, *method) for name, method in methods.items()}
        )

    def _handler(self, name: str, behavior: Behavior, request: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(_: object, context: Context) -> None:
            record = new_record(name, context)
            try:
                async with self._calls.track(record):
                    self._authenticate(context, record)
                    await behavior(context, record)
            except CallerGone:
                raise asyncio.CancelledError from None  # ends the call without a word: it would not get through
            except Refused as refused:
                refusal = refused.refusal
                # Not as initial metadata: once those are there, gRPC's own retries give up.
                metadata = (*refusal.trailing_metadata, (REQUEST_ID_KEY, record.request_id))
                await context.abort(refusal.code, refusal.text, metadata)

        return grpc.stream_stream_rpc_method_handler(
            handle,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _authenticate(self, context: Context, record: Record) -> None:
        """Notes who calls. Raises Unauthenticated."""
        if self._identify is None:
            return
        try:
            record.caller = self._identify(authorizations(context.invocation_metadata()))
        except Unauthenticated:
            structlog.contextvars.bind_contextvars(peer=context.peer())  # for this call's line in the log
            raise
        structlog.contextvars.bind_contextvars(caller=record.caller)

    def _ready_pipeline(self) -> Pipeline:
        if self._draining.is_set():
            raise NotServing("the server is shutting down", _DRAINING_RETRY_S, "draining")
        if self._pipeline is None:
            raise NotServing("the server is starting", _STARTING_RETRY_S)
        return self._pipeline

    async def _remove_background(self, context: Context, record: Record) -> None:
        """One photo in, one composite out."""
        origin = _origin(context, record)
        self._ready_pipeline().admission.check_room(origin)
        request = cast("pb.RemoveBackgroundRequest", await self._wire.receive(context, record))
        with self._wire.hold(request, record) as held:
            removal = parse_request(request)
            del request  # its photo has been copied
            response = await self._answer(removal, record, origin)
            record.response_bytes = response.ByteSize()
            held.become(record.response_bytes)
            await self._greet(context, record)
            await self._wire.send(context, response, record)

    async def _answer(self, removal: RemovalRequest, record: Record, origin: Origin) -> pb.RemoveBackgroundResponse:
        log.debug("request started")
        record.model = removal.model[:_MAX_NAME_CHARACTERS]  # the caller's words, until there is a model of that name
        composite = await self._ready_pipeline().remove_background(removal, origin)
        record.model, record.provider = composite.network.spec.name, composite.network.provider
        record.batch_size = composite.found.batch_size
        record.width_px, record.height_px = composite.finished.size
        record.stages.extend(composite.stages)
        return build_response(composite, removal.output)

    async def _list_models(self, context: Context, record: Record) -> None:
        """The models that this server has, and its limits."""
        pipeline = self._ready_pipeline()
        await self._wire.receive(context, record)
        limits = pb.Limits(
            max_message_bytes=self._max_message_bytes,
            max_photo_bytes=pipeline.limits.max_bytes,
            max_photo_pixels=pipeline.limits.max_pixels,
        )
        await self._greet(context, record)
        await self._wire.send(context, build_models(pipeline.engine, limits), record)

    @staticmethod
    async def _greet(context: Context, record: Record) -> None:
        await context.send_initial_metadata(((REQUEST_ID_KEY, record.request_id),))


def _origin(context: Context, record: Record) -> Origin:
    return Origin(record.caller or context.peer(), record.deadline_s)
