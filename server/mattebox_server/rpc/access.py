"""Who calls: asked before anything of a call is read."""

from __future__ import annotations  # grpc is generic in its stubs only

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from grpc import aio

from mattebox_server.admission.lane import Origin
from mattebox_server.errors import InvalidRequest, Unauthenticated, Violation
from mattebox_server.rpc.statuses import to_refusal

if TYPE_CHECKING:
    from mattebox_server.records import Record
    from mattebox_server.security.proxies import TrustedProxies

log = structlog.stdlib.get_logger(__name__)

AUTHORIZATION_KEY = "authorization"
CALLER_KEY = "x-mattebox-caller"
_CALLER = re.compile(r"[A-Za-z0-9._:@-]{1,64}")

Identify: TypeAlias = Callable[[Iterable["str | bytes"]], str]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class Callers:
    """Finds out who calls.

    Args:
        identify: gives the name of a token, or raises Unauthenticated; None asks for no token.
        proxies: those whose header `x-mattebox-caller` is believed where no token is asked for.
    """

    def __init__(self, identify: Identify | None, proxies: TrustedProxies) -> None:
        self._identify, self._proxies = identify, proxies

    def origin(self, context: Context, record: Record) -> Origin:
        """Who has the turn in the queue: the token's name, the name that a trusted proxy gives, or the connection.

        The log gets the name too, and the record that of a token.

        Raises:
            Unauthenticated: the call has no token, or a wrong one.
            InvalidRequest: a trusted proxy gives a name that can't be one.
        """
        peer = context.peer()
        if self._identify is not None:
            try:
                record.caller = self._identify(_values(context.invocation_metadata(), AUTHORIZATION_KEY))
            except Unauthenticated:
                structlog.contextvars.bind_contextvars(peer=peer)  # for this call's line in the log
                raise
        name = record.caller or self._named_by_proxy(context, peer)
        if name:
            structlog.contextvars.bind_contextvars(caller=name)
        return Origin(name or peer, record.deadline_s)

    def _named_by_proxy(self, context: Context, peer: str) -> str:
        names = _values(context.invocation_metadata(), CALLER_KEY)
        if not names or not self._proxies.trusts(peer):
            return ""
        name = names[0]
        if len(names) > 1 or not isinstance(name, str) or not _CALLER.fullmatch(name):
            what = "must be sent once by a trusted proxy, with 1 to 64 of A-Z a-z 0-9 . _ : @ -"
            raise InvalidRequest(Violation(CALLER_KEY, what))
        return name


def _values(metadata: Iterable[tuple[str, str | bytes]] | None, wanted: str) -> list[str | bytes]:
    return [value for key, value in metadata or () if key == wanted]


class TokenInterceptor(aio.ServerInterceptor):
    """Asks for a token on all services but some, so that a new one is not open by oversight.

    Args:
        identify: gives the name of a token, or raises Unauthenticated.
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
                self._identify(_values(handler_call_details.invocation_metadata, AUTHORIZATION_KEY))
            except Unauthenticated as error:
                return _refusing(error, method)
        return await continuation(handler_call_details)


def _refusing(error: Unauthenticated, method: str) -> Handler:
    refusal = to_refusal(error, "")

    async def refuse(_: object, context: Context) -> None:
        log.info("request", status=refusal.code.name, method=method, peer=context.peer())
        await context.abort(refusal.code, refusal.text)

    return grpc.stream_stream_rpc_method_handler(refuse)
