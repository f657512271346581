"""The HTTP server that metrics are read from."""

import contextlib
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from mattebox_server.errors import StartupError

log = structlog.stdlib.get_logger(__name__)

_MAX_CONNECTIONS = 8
_SILENCE_S = 5.0  # a connection that neither sends nor receives for so long is closed


class ScrapeServer(ThreadingHTTPServer):
    """Answers scrapes on threads of its own, and bounds what a slow or hostile scraper can hold.

    Each connection has a thread; where there are too many, the oldest is closed for the newest, so that whoever
    dribbles a request can't keep others out.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        handler: of one connection.
    """

    daemon_threads = True
    request_queue_size = 64  # beyond which the kernel lets a connection wait for a second
    allow_reuse_port = False  # else a second server would take half of the scrapes in silence

    def __init__(self, address: str, handler: type[BaseHTTPRequestHandler]) -> None:
        host, _, port = address.rpartition(":")
        self._open: dict[Any, float] = {}  # since when; the oldest first
        self._changing = threading.Lock()
        self._places = threading.Semaphore(_MAX_CONNECTIONS)
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, _, _, _, place = found[0]
            super().__init__(place[:2], handler)  # type: ignore[arg-type]
        except OSError as error:
            raise StartupError(f"metrics_address: can't serve metrics on {address}: {error.strerror}") from error
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics", address=f"{host}:{self.server_port}", path="/metrics")

    def close(self) -> None:
        """Ends it; waits until no new scrape is taken, up to half a second. Not for the event loop."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Without the look-up of the host's name, that may take seconds and serves nothing here."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """See `socketserver`: hands a connection to a thread."""
        request.settimeout(_SILENCE_S)
        if not self._places.acquire(blocking=False):
            self._close_oldest()
            self._places.acquire()
        with self._changing:
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """See `socketserver`: a connection is over."""
        with self._changing:
            was_open = self._open.pop(request, None) is not None
        if was_open:
            self._places.release()
        super().shutdown_request(request)

    def _close_oldest(self) -> None:
        """Its thread, which reads or writes, comes to an end then."""
        with self._changing:
            oldest = next(iter(self._open), None)
        if oldest is not None:
            with contextlib.suppress(OSError):  # it has ended by itself meanwhile
                oldest.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the signature is socketserver's
        """See `socketserver`: a connection failed."""
        error = sys.exception()
        if isinstance(error, OSError):  # the scraper went away
            log.debug("a scrape ended early", client=str(client_address), reason=repr(error))
        else:
            log.error("a scrape failed", client=str(client_address), exc_info=error)
