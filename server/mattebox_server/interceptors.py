"""What surrounds every call: a request id, one log line, and errors turned into statuses."""

from __future__ import annotations  # grpc is generic in its stubs only

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from grpc import aio

from mattebox_server.errors import InferenceFailed, MatteboxError
from mattebox_server.statuses import to_refusal

REQUEST_ID_KEY = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.stdlib.get_logger(__name__)

Handler = Callable[[Any, Any], Awaitable[Any]]


class RequestInterceptor(aio.ServerInterceptor):
    """Wraps the unary calls of one service; health checks and reflection pass untouched."""

    def __init__(self, service_name: str) -> None:
        self._prefix = f"/{service_name}/"
        self.running = 0
        self._changed = asyncio.Condition()

    async def busy(self) -> None:
        """Waits until a call runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.running > 0)

    async def idle(self) -> None:
        """Waits until no call runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.running == 0)

    async def _count(self, change: int) -> None:
        self.running += change
        async with self._changed:
            self._changed.notify_all()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix) or handler.unary_unary is None:
            return handler
        name = method.removeprefix(self._prefix)
        unary: Handler = handler.unary_unary

        async def answer(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                await self._count(1)
                return await _answer(unary, name, request, context)
            finally:
                await self._count(-1)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def _answer(unary: Handler, method: str, request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
    request_id = _request_id(context)
    started_s = time.monotonic()
    with structlog.contextvars.bound_contextvars(request_id=request_id, method=method):
        await context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))
        try:
            response = await unary(request, context)
        except asyncio.CancelledError:
            _log_end("CANCELLED", started_s)
            raise
        except Exception as error:  # nothing that goes wrong in a call may reach grpc, which would tell it the caller
            refusal = to_refusal(error, request_id)
            if not isinstance(error, MatteboxError) or isinstance(error, InferenceFailed):
                log.exception("request failed")
            _log_end(refusal.code.name, started_s, reason=refusal.text)
            await context.abort(refusal.code, refusal.text, refusal.trailing_metadata)
        else:
            _log_end("OK", started_s, response_bytes=response.ByteSize())
            return response


def _log_end(status: str, started_s: float, **fields: object) -> None:
    log.info("request", status=status, ms=round((time.monotonic() - started_s) * 1000, 1), **fields)


def _request_id(context: aio.ServicerContext[Any, Any]) -> str:
    """The caller's id if it sent a sane one, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
