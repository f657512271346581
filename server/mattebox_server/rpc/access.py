"""Who may call: the token is asked for before anything of a call is read."""

from __future__ import annotations  # grpc is generic in its stubs only

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, TypeAlias

import grpc
import structlog
from grpc import aio

from mattebox_server.errors import Unauthenticated
from mattebox_server.rpc.statuses import to_refusal

log = structlog.stdlib.get_logger(__name__)

METADATA_KEY = "authorization"

Identify: TypeAlias = Callable[[Iterable["str | bytes"]], str]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def authorizations(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[str | bytes]:
    """All values of `authorization` in a call's metadata."""
    return [value for key, value in metadata or () if key == METADATA_KEY]


class TokenInterceptor(aio.ServerInterceptor):
    """Asks for a token on all services but some, so that a new one is not open by oversight.

    Args:
        identify: the name of a token; raises Unauthenticated.
        exempt: services that need no token, or ask for it themselves.
    """

    def __init__(self, identify: Identify, exempt: Collection[str]) -> None:
        self._identify, self._exempt = identify, frozenset(exempt)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Puts a refusal in place of the method."""
        method = handler_call_details.method
        if method.rpartition("/")[0].lstrip("/") not in self._exempt:
            try:
                self._identify(authorizations(handler_call_details.invocation_metadata))
            except Unauthenticated as error:
                return _refusing(error, method)
        return await continuation(handler_call_details)


def _refusing(error: Unauthenticated, method: str) -> Handler:
    refusal = to_refusal(error, "")

    async def refuse(_: object, context: aio.ServicerContext[Any, Any]) -> None:
        log.info("request", status=refusal.code.name, method=method, peer=context.peer())
        await context.abort(refusal.code, refusal.text)

    return grpc.stream_stream_rpc_method_handler(refuse)
