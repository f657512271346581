"""The server of metrics and what scrapers can do to it, without the rest of the server."""

import contextlib
import socket
import urllib.request
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler

import pytest
import structlog
from structlog.typing import EventDict

from mattebox_server.telemetry import scraping
from mattebox_server.telemetry.scraping import ScrapeServer
from waiting import eventually


class Handler(BaseHTTPRequestHandler):
    """Answers /good, and fails with a fault of its own at all other paths."""

    def do_GET(self) -> None:
        if self.path != "/good":
            raise ValueError("the handler is broken")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"good")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        pass


@contextlib.contextmanager
def scraped() -> Generator[tuple[str, int]]:
    server = ScrapeServer("127.0.0.1:0", Handler)
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.close()


def logged(lines: list[EventDict], event: str) -> Callable[[], bool]:
    return lambda: any(line["event"] == event for line in lines)


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_SILENCE_S", 0.05)
    with scraped() as address, socket.create_connection(address, timeout=30) as silent:
        assert silent.recv(1) == b""


def test_the_oldest_connection_is_closed_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_SILENCE_S", 3600)
    with scraped() as address, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(8)]
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/good", timeout=30) as answer:
            assert answer.read() == b"good"
        assert silent[0].recv(1) == b""
        silent[1].setblocking(False)
        with pytest.raises(BlockingIOError):  # it is still open
            silent[1].recv(1)


def test_a_handler_that_fails_is_an_error_in_the_log_and_the_server_goes_on() -> None:
    with structlog.testing.capture_logs() as lines, scraped() as address:
        url = f"http://{address[0]}:{address[1]}"
        with pytest.raises(OSError, match=r"closed|reset"):
            urllib.request.urlopen(f"{url}/bad", timeout=30)
        eventually(logged(lines, "a scrape failed"))
        with urllib.request.urlopen(f"{url}/good", timeout=30) as answer:
            assert answer.read() == b"good"
    (line,) = [line for line in lines if line["event"] == "a scrape failed"]
    assert line["log_level"] == "error"
    assert isinstance(line["exc_info"], ValueError)


def test_a_scraper_that_goes_away_is_no_error() -> None:
    with structlog.testing.capture_logs() as lines, scraped() as address:
        with socket.create_connection(address) as gone:
            gone.sendall(b"GET /good HTTP/1.1\r\n")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed by a reset
        eventually(logged(lines, "a scrape ended early"))
    assert {line["log_level"] for line in lines} <= {"debug", "info"}


def test_the_port_is_free_after_the_end() -> None:
    with scraped() as address:
        pass
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(address)
