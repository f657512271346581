"""Tokens: which are taken from a file, who gets in with them, and how they end."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import images
from authority import replace
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import StartupError, Unauthenticated
from mattebox_server.local import LocalServer
from mattebox_server.security.tokens import TokenFile

SHOP, PRINTER, WRONG = "shop-7Jx0-secret/+~.=", "printer-kK29-secret_", "wrong-token-of-nobody"
PHOTO = images.encode(images.scene())
OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    replace(path, f"# who\n\nshop:{SHOP}\n  printer:{PRINTER}  \n".encode())
    return path


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (f"Bearer {SHOP}", "shop"),
        (f"bearer  {PRINTER}", "printer"),
        (f"Bearer {SHOP}x", ""),
        (f"Bearer {SHOP[:-1]}", ""),
        (f"Bearer {SHOP.upper()}", ""),
        (f"Basic {SHOP}", ""),
        (f"Bearer {SHOP} {SHOP}", ""),
        (SHOP, ""),
        ("Bearer ", ""),
        ("Bearer shop", ""),
        (f"Bearer shop:{SHOP}", ""),
        ("", ""),
        (SHOP.encode(), ""),
    ],
)
def test_a_token_is_its_name_and_everything_else_nobody(file: Path, value: str | bytes, name: str) -> None:
    tokens = TokenFile(file)
    assert tokens.names == ("shop", "printer")
    if name:
        assert tokens.identify([value]) == name
    else:
        with pytest.raises(Unauthenticated):
            tokens.identify([value])


def test_one_authorization_is_asked_for(file: Path) -> None:
    for values in ([], [f"Bearer {SHOP}", f"Bearer {SHOP}"]):
        with pytest.raises(Unauthenticated):
            TokenFile(file).identify(values)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"shop:{SHOP}\n{PRINTER}\n", "line 2: must be NAME:TOKEN"),
        (f"{PRINTER}!:shop\n", "line 1: must be NAME:TOKEN"),
        (f":{PRINTER}\n", "line 1: must be NAME:TOKEN"),
        (f"{'n' * 65}:{PRINTER}\n", "line 1: must be NAME:TOKEN"),
        ("#\nshop:secret-of-15-ch\n", "line 2: the token must have 16 to 1024 characters"),
        (f"shop:{'secret' * 171}\n", "line 1: the token must have 16 to 1024 characters"),
        (f"shop: {SHOP}\n", "line 1: the token must have"),
        (f"shop:{SHOP}secret\n", "line 1: the token must have"),
        (f"shop:{SHOP} # secret\n", "line 1: the token must have"),
        (f"shop:{SHOP}\nshop:{PRINTER}\n", "line 2: an earlier line has the same name"),
        (f"shop:{SHOP}\nother:{SHOP}\n", "line 2: an earlier line has the same token"),
        ("# nobody\n", "has no token"),
        ("shop:secret\udcff\udcfe-secret-secret\n", "is not text"),
    ],
)
def test_wrong_files_are_refused_without_a_word_of_what_stands_in_them(file: Path, content: str, says: str) -> None:
    replace(file, content.encode(errors="surrogateescape"))
    with pytest.raises(StartupError, match=says) as caught:
        TokenFile(file)
    assert str(caught.value).startswith(f"token_file: {file}")
    assert "secret" not in str(caught.value).replace(str(file), "")
    assert caught.value.__cause__ is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"token_file: can't read .*: No such file"):
        TokenFile(tmp_path / "nowhere")


def test_a_file_that_others_can_read_is_warned_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as quiet:
        TokenFile(file)
    file.chmod(0o640)
    with structlog.testing.capture_logs() as loud:
        TokenFile(file)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)  # a file of root's, for the server's group
    with structlog.testing.capture_logs() as mounted:
        TokenFile(file)
    file.chmod(0o644)
    with structlog.testing.capture_logs() as open_to_all:
        TokenFile(file)
    assert not quiet
    assert not mounted
    for said in (loud, open_to_all):
        assert [(line["log_level"], line["setting"]) for line in said] == [("warning", "token_file")]


def test_a_changed_file_counts_at_once_and_a_broken_one_not_at_all(file: Path) -> None:
    tokens = TokenFile(file)
    replace(file, f"till:{WRONG}\n".encode())
    with structlog.testing.capture_logs() as said:
        assert tokens.identify([f"Bearer {WRONG}"]) == "till"
    assert [line["event"] for line in said] == ["tokens reloaded"]
    with pytest.raises(Unauthenticated):
        tokens.identify([f"Bearer {SHOP}"])
    replace(file, b"till")
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            assert tokens.identify([f"Bearer {WRONG}"]) == "till"
    assert [line["log_level"] for line in said] == ["error"]  # once, not with every call
    file.unlink()
    with structlog.testing.capture_logs() as said:
        assert tokens.identify([f"Bearer {WRONG}"]) == "till"
    assert "can't read" in said[0]["reason"]
    replace(file, f"shop:{SHOP}\n".encode())
    assert tokens.identify([f"Bearer {SHOP}"]) == "shop"


def test_a_change_in_place_is_seen_whatever_the_file_says_of_its_time_and_size(file: Path) -> None:
    tokens, before = TokenFile(file), file.stat()
    file.write_bytes(file.read_bytes().replace(b"shop:", b"till:"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert tokens.identify([f"Bearer {SHOP}"]) == "till"


@dataclass(frozen=True)
class Place:
    """A server that asks for tokens, and the file that it has them from."""

    server: LocalServer
    file: Path

    def line(self, request_id: str) -> dict[str, Any]:
        """What the log says of a call in the end."""
        deadline_s = time.monotonic() + 30
        while True:
            for line in list(self.server.events):
                if line["event"] == "request" and line.get("request_id") == request_id:
                    return line
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


@pytest.fixture(scope="module")
def place(colour_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    replace(file, f"shop:{SHOP}\nprinter:{PRINTER}\n".encode())
    flags = ["--provider", "cpu", "--token-file", str(file), "--log-level", "debug"]
    with LocalServer([colour_model], flags) as server:
        yield Place(server, file)


@pytest.fixture
def channel(place: Place) -> Generator[grpc.Channel]:
    with grpc.insecure_channel(place.server.address) as channel:
        yield channel


def remove(channel: grpc.Channel, metadata: Metadata) -> grpc.StatusCode:
    """The status of a call."""
    try:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        stub.RemoveBackground(pb.RemoveBackgroundRequest(encoded=PHOTO), timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        if error.code() is UNAUTHENTICATED:
            assert error.details() == "missing or wrong token: the metadata must have authorization: Bearer TOKEN"
        return error.code()
    return OK


def test_who_has_a_token_is_served_and_named_in_the_log(place: Place, channel: grpc.Channel) -> None:
    for name, token in (("shop", SHOP), ("printer", PRINTER)):
        assert remove(channel, (*bearer(token), ("x-request-id", f"of-{name}"))) is OK
        assert place.line(f"of-{name}")["caller"] == name
        assert any(
            line["event"] == "request started" and line["caller"] == name for line in place.server.events
        )  # every line of the call has it


@pytest.mark.parametrize(
    "metadata",
    [(), bearer(WRONG), bearer(""), bearer("shop"), (("authorization", SHOP),), (*bearer(SHOP), *bearer(PRINTER))],
    ids=["none", "wrong", "empty", "name", "bare", "two"],
)
def test_who_has_none_is_refused_and_the_log_says_from_where(
    place: Place, channel: grpc.Channel, metadata: Metadata, request: pytest.FixtureRequest
) -> None:
    request_id = f"refused-{request.node.callspec.id}"
    assert remove(channel, (*metadata, ("x-request-id", request_id))) is UNAUTHENTICATED
    line = place.line(request_id)
    assert (line["status"], line["method"]) == ("UNAUTHENTICATED", "RemoveBackground")
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert "caller" not in line


def test_every_method_asks_but_those_of_health(channel: grpc.Channel) -> None:
    stub = pb_grpc.BackgroundRemovalServiceStub(channel)
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")

    def list_models(metadata: Metadata) -> None:
        stub.ListModels(pb.ListModelsRequest(), timeout=20, metadata=metadata)

    def reflect(metadata: Metadata) -> None:
        list(reflection.ServerReflectionInfo(iter([question]), timeout=20, metadata=metadata))

    for ask in (list_models, reflect):
        ask(bearer(SHOP))
        for metadata in ((), bearer(WRONG)):
            with pytest.raises(grpc.RpcError) as caught:
                ask(metadata)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() is UNAUTHENTICATED
    health: Any = health_pb2_grpc.HealthStub(channel)
    status = health.Check(health_pb2.HealthCheckRequest(service=""), timeout=20).status
    assert status == health_pb2.HealthCheckResponse.SERVING


def test_a_refusal_comes_before_the_photo_is_received(channel: grpc.Channel) -> None:
    """The caller gets the refusal before it has sent anything."""
    anything: Any = channel
    call = anything.stream_unary("/mattebox.v1.BackgroundRemovalService/RemoveBackground")
    never: queue.Queue[bytes] = queue.Queue()
    pending = call.future(iter(never.get, b""), timeout=20)
    assert pending.code() is UNAUTHENTICATED
    never.put(b"")


def test_tokens_change_while_callers_are_connected(place: Place, channel: grpc.Channel) -> None:
    kept = place.file.read_bytes()
    assert remove(channel, bearer(SHOP)) is OK
    replace(place.file, f"printer:{PRINTER}\ntill:{WRONG}\n".encode())
    assert remove(channel, bearer(SHOP)) is UNAUTHENTICATED
    assert [remove(channel, bearer(token)) for token in (PRINTER, WRONG)] == [OK, OK]
    replace(place.file, b"broken")
    assert [remove(channel, bearer(token)) for token in (PRINTER, WRONG)] == [OK, OK]
    replace(place.file, kept)
    assert [remove(channel, bearer(token)) for token in (SHOP, WRONG)] == [OK, UNAUTHENTICATED]
    for event in ("tokens reloaded", "the changed tokens are refused, the old ones stay"):
        assert any(line["event"] == event for line in place.server.events)
