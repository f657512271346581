"""A server in a process of its own, which ends whatever becomes of it."""

import os
import signal
from pathlib import Path

import pytest
import structlog

from mattebox_server import local
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer

# Programs that run instead of a server.
DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"event": "serving", "address": "127.0.0.1:1"}', file=sys.stderr, flush=True)
time.sleep(3600)
"""
SILENT = "import signal; signal.pause()"
BROKEN = "raise SystemExit('no such network')"


def stand_in(program: str, stop_timeout_s: float = 60) -> LocalServer:
    return LocalServer([], program=("-c", program), stop_timeout_s=stop_timeout_s)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_ignores_sigterm_is_killed() -> None:
    server = stand_in(DEAF, 0.1)
    with structlog.testing.capture_logs() as lines, pytest.raises(TimeoutError, match="was killed"), server:
        assert server.address == "127.0.0.1:1"
    assert not is_alive(server.pid)
    assert server.killed
    assert server.stop() == -signal.SIGKILL
    assert [(line["log_level"], line["pid"]) for line in lines] == [("warning", server.pid)]


def test_a_real_server_that_sigstop_holds_is_killed(colour_model: Path) -> None:
    server = LocalServer([colour_model], ["--provider", "cpu"], stop_timeout_s=0.1)
    with pytest.raises(TimeoutError, match="was killed"), server:
        os.kill(server.pid, signal.SIGSTOP)
    assert not is_alive(server.pid)


def test_the_error_of_a_block_is_not_hidden_by_the_kill() -> None:
    server = stand_in(DEAF, 0.1)
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    assert server.killed
    assert not is_alive(server.pid)


def test_a_server_that_ends_by_itself_is_not_killed(colour_model: Path) -> None:
    with LocalServer([colour_model], ["--provider", "cpu"]) as server:
        assert server.stop() == 0
        assert server.stop() == 0
    assert not server.killed
    assert server.events[-1]["event"] == "stopped"


def test_a_server_that_fails_at_the_start_shows_its_log() -> None:
    with pytest.raises(StartupError, match="no such network"):
        stand_in(BROKEN).__enter__()


def test_a_server_that_never_serves_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_START_TIMEOUT_S", 0)
    server = stand_in(SILENT)
    with pytest.raises(StartupError, match="didn't start"):
        server.__enter__()
    assert not is_alive(server.pid)
