"""The contract over gRPC: hands messages in and out, decides nothing."""

from __future__ import annotations  # grpc is generic in its stubs only

import time
from typing import cast

import grpc
import structlog
from grpc import aio

from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import NotServing
from mattebox_server.pipeline import Pipeline
from mattebox_server.requests import parse_request
from mattebox_server.responses import build_models, build_response

log = structlog.stdlib.get_logger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["BackgroundRemovalService"].full_name

_STARTING_RETRY_S = 2.0
_DRAINING_RETRY_S = 1.0


class BackgroundRemovalService(pb_grpc.BackgroundRemovalServiceServicer):
    """Answers once it has a pipeline, until it drains."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._pipeline: Pipeline | None = None
        self._draining = False

    def serve(self, pipeline: Pipeline) -> None:
        """From now on requests are answered."""
        self._pipeline = pipeline

    def drain(self) -> None:
        """From now on new requests are refused; those that run go on."""
        self._draining = True

    def _ready_pipeline(self) -> Pipeline:
        if self._draining:
            raise NotServing("the server is shutting down", _DRAINING_RETRY_S)
        if self._pipeline is None:
            raise NotServing("the server is starting", _STARTING_RETRY_S)
        return self._pipeline

    async def RemoveBackground(  # noqa: N802 - the contract's name
        self,
        request: pb.RemoveBackgroundRequest,
        context: aio.ServicerContext[pb.RemoveBackgroundRequest, pb.RemoveBackgroundResponse],
    ) -> pb.RemoveBackgroundResponse:
        """One photo in, one composite out."""
        pipeline = self._ready_pipeline()
        log.debug("request started")
        remaining_s = cast("float | None", context.time_remaining())  # None without a deadline: the stubs are wrong
        deadline_s = None if remaining_s is None else time.monotonic() + remaining_s
        removal = parse_request(request)
        composite = await pipeline.remove_background(removal, deadline_s)
        structlog.contextvars.bind_contextvars(model=composite.session.spec.name)
        return build_response(composite, removal.output)

    async def RemoveBackgroundStream(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: object,  # noqa: ARG002
        context: aio.ServicerContext[pb.RemoveBackgroundStreamRequest, pb.RemoveBackgroundStreamResponse],
    ) -> None:
        """Not yet."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "RemoveBackgroundStream is not implemented by this version")

    async def ListModels(  # noqa: N802
        self,
        request: pb.ListModelsRequest,  # noqa: ARG002 - it has no fields
        context: aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],  # noqa: ARG002
    ) -> pb.ListModelsResponse:
        """The models that this server has, and its limits."""
        pipeline = self._ready_pipeline()
        limits = pb.Limits(
            max_message_bytes=self._max_message_bytes,
            max_photo_bytes=pipeline.limits.max_bytes,
            max_photo_pixels=pipeline.limits.max_pixels,
        )
        return build_models(pipeline.engine, limits)
