"""Who has the turn in the queue: tokens, connections, and callers behind a proxy."""

from typing import Any, cast

import grpc
import pytest
import structlog

import images
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import InvalidRequest
from mattebox_server.local import LocalServer
from mattebox_server.records import Record
from mattebox_server.rpc.access import Callers
from mattebox_server.security.proxies import TrustedProxies

HEADER = "x-mattebox-caller"


class Call:
    """As much of a call as says who calls."""

    def __init__(self, peer: str, *metadata: tuple[str, str | bytes]) -> None:
        self._peer, self._metadata = peer, metadata

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata


def caller(callers: Callers, peer: str, *metadata: tuple[str, str | bytes]) -> str:
    with structlog.contextvars.bound_contextvars():
        found = callers.origin(cast("Any", Call(peer, *metadata)), Record("RemoveBackground", "id", 0, 7)).caller
        structlog.contextvars.clear_contextvars()
    return found


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("ipv4:10.1.2.3:5000", True),
        ("ipv4:11.1.2.3:5000", False),
        ("ipv6:%5B2001:db8::7%5D:5000", True),
        ("ipv6:[2001:db9::7]:5000", False),
        ("ipv6:%5B::ffff:10.1.2.3%5D:5000", True),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", False),
        ("unix:", True),
        ("unix:@name", True),
        ("vsock:3:5", False),
        ("", False),
    ],
)
def test_only_trusted_proxies_name_the_caller(peer: str, is_trusted: bool) -> None:
    callers = Callers(None, TrustedProxies(["10.0.0.0/8", "2001:db8::/32", "unix"]))
    assert caller(callers, peer, (HEADER, "shop-7")) == ("shop-7" if is_trusted else peer)
    assert caller(callers, peer) == peer


def test_without_the_setting_the_header_means_nothing() -> None:
    callers = Callers(None, TrustedProxies())
    for peer in ("ipv4:127.0.0.1:5000", "unix:"):
        assert caller(callers, peer, (HEADER, "shop-7")) == peer


def test_a_token_is_the_caller() -> None:
    callers = Callers(lambda _: "till", TrustedProxies(["unix"]))
    record = Record("RemoveBackground", "id", 0)
    origin = callers.origin(cast("Any", Call("unix:", (HEADER, "shop-7"))), record)
    structlog.contextvars.clear_contextvars()
    assert (origin.caller, record.caller) == ("till", "till")


@pytest.mark.parametrize("names", [("",), ("x" * 65,), ("two words",), ("a", "b"), (b"bytes",)])
def test_a_name_that_can_not_be_one_is_refused(names: tuple[str | bytes, ...]) -> None:
    callers = Callers(None, TrustedProxies(["unix"]))
    with pytest.raises(InvalidRequest, match=HEADER):
        caller(callers, "unix:", *((HEADER, name) for name in names))


def test_through_a_real_server(colour_model: Any) -> None:
    flags = ["--provider", "cpu", "--trusted-proxies", "127.0.0.0/8"]
    with LocalServer([colour_model], flags) as server, grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        request = pb.RemoveBackgroundRequest(encoded=images.encode(images.scene()))
        stub.RemoveBackground(request, metadata=((HEADER, "10.9.8.7"),), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RemoveBackground(request, metadata=((HEADER, "two words"),), timeout=30)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert HEADER in (caught.value.details() or "")
    (answered,) = [event for event in server.events if event.get("event") == "request" and event["status"] == "OK"]
    assert answered["caller"] == "10.9.8.7"
