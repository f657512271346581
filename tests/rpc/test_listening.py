"""Addresses: which of them others can reach, and what is asked for before the server listens there."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import structlog

from authority import Authority
from mattebox_server import app
from mattebox_server.errors import StartupError
from mattebox_server.rpc.listening import bind, is_local
from mattebox_server.settings import Settings


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.9.9.9:1", "[::1]:5", "localhost:0", "[::ffff:127.0.0.1]:1", "unix:/tmp/s", "unix:s"]
)
def test_only_this_machine_reaches_these(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:0", "0:5", "[::]:0", "[::ffff:10.0.0.1]:1", "192.0.2.7:1", "[2001:db8::1]:1"],
)
def test_others_reach_these(address: str) -> None:
    assert not is_local(address)


def test_a_name_is_local_only_if_all_its_addresses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))
    other = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))
    found: dict[str, list[object]] = {"both": [loopback, other], "one": [loopback]}

    def getaddrinfo(host: str, _: object, **_rest: object) -> list[object]:
        return found[host]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert not is_local("both:1")
    assert is_local("one:1")


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(StartupError, match=r"address: nowhere\.invalid is no address"):
        is_local("nowhere.invalid:1")


def settings(**options: object) -> Settings:
    return Settings.model_validate({"model": ["any.onnx"], "address": "127.0.0.1:0", **options})


def bound(options: Settings) -> int:
    """The port that a server gets; it is bound and never started."""

    async def scenario() -> int:
        return app._bind(grpc.aio.server(), options)  # pyright: ignore[reportPrivateUsage]

    return asyncio.run(scenario())


def test_an_open_address_needs_tls_or_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test listens on loopback; a fake answers that other machines can connect."""

    def nowhere(_: str) -> bool:
        return False

    monkeypatch.setattr(app, "is_local", nowhere)
    with pytest.raises(StartupError, match=r"127\.0\.0\.1:0 is open.*tls_certificate.*allow_insecure"):
        bound(settings())
    with pytest.raises(StartupError, match="open to other machines"):
        bound(settings(token_file=tmp_path / "tokens"))
    with structlog.testing.capture_logs() as said:
        assert bound(settings(allow_insecure=True)) > 0
    assert [line["log_level"] for line in said] == ["warning"]
    certificate, key = Authority().issue().write(tmp_path)
    with structlog.testing.capture_logs() as said:
        assert bound(settings(tls_certificate=certificate, tls_key=key)) > 0
    assert [line["event"] for line in said] == ["certificate"]


def test_the_server_says_why_it_does_not_listen() -> None:
    command = [sys.executable, "-m", "mattebox_server", "--model", "any.onnx", "--address", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "0.0.0.0:0 is open to other machines" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o640), (0, 0o660), (0o007, 0o660), (0o077, 0o600)])
def test_a_unix_socket_is_closed_to_others(umask: int, mode: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        bind(grpc.aio.server(), f"unix:{tmp_path}/s", None)

    before = os.umask(umask)
    try:
        asyncio.run(scenario())
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
