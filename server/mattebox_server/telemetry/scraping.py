"""An HTTP server from which a monitoring system reads the metrics."""

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
_SILENCE_S = 5.0  # a connection on which nothing is sent or received for so long is closed


class ScrapeServer(ThreadingHTTPServer):
    """Answers scrapes on threads of its own, and bounds how many connections a slow or hostile scraper can hold.

    Each connection has a thread. If eight are open, a new one closes the oldest, so that scrapers that send their
    requests slowly can't keep others out.

    Args:
        address: HOST:PORT to listen on; port 0 takes a free port.
        handler: class that answers the requests of one connection.

    Raises:
        StartupError: the address is in use or doesn't exist.
    """

    daemon_threads = True
    request_queue_size = 64  # if more connections wait, the kernel lets callers try again after a second
    allow_reuse_port = False  # otherwise a second server could take half of the scrapes without an error

    def __init__(self, address: str, handler: type[BaseHTTPRequestHandler]) -> None:
        host, _, port = address.rpartition(":")
        self._open: dict[Any, float] = {}  # each connection's start; the oldest is first
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
        """Stops the server and waits until it takes no new scrape, which blocks for up to half a second."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Binds the port as `HTTPServer` does, but doesn't look up the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a new connection, and closes the oldest connection if there are too many."""
        request.settimeout(_SILENCE_S)
        if not self._places.acquire(blocking=False):
            self._close_oldest()
            self._places.acquire()
        with self._changing:
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection that has ended, and makes its place free."""
        with self._changing:
            was_open = self._open.pop(request, None) is not None
        if was_open:
            self._places.release()
        super().shutdown_request(request)

    def _close_oldest(self) -> None:
        """Shuts the oldest connection down, so that its thread stops reading or writing and ends."""
        with self._changing:
            oldest = next(iter(self._open), None)
        if oldest is not None:
            with contextlib.suppress(OSError):  # the connection has ended by itself meanwhile
                oldest.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the signature is socketserver's
        """Logs why a connection failed; an error only if the fault isn't the scraper's."""
        error = sys.exception()
        if isinstance(error, OSError):  # the scraper closed the connection, or was too slow
            log.debug("a scrape ended early", client=str(client_address), reason=repr(error))
        else:
            log.error("a scrape failed", client=str(client_address), exc_info=error)
