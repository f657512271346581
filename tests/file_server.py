"""An HTTP server on this machine that sends one file as well or as badly as a test wants."""

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is sent, and what was asked for.

    Attributes:
        data: the file.
        breaks_after: bytes after which the connection breaks, one number for each answer; the others are whole.
        ranges: whether the server honours the header Range.
        status: status of every answer instead of the file.
        length: whether the header Content-Length is sent.
        gate: an event that answers wait for after half of the file.
        asked: the path and the header Range of each request.
    """

    data: bytes
    breaks_after: list[int] = field(default_factory=list[int])
    ranges: bool = True
    status: int | None = None
    length: bool = True
    gate: threading.Event | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])


@contextmanager
def serve(files: Files) -> Generator[str]:
    """Yields the server's URL, without a path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            files.asked.append((self.path, wanted))
            if files.status is not None:
                self.send_error(files.status)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and files.ranges else 0
            if start >= len(files.data):
                self.send_error(416)
                return
            body = files.data[start:]
            self.send_response(206 if start else 200)
            if files.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            body = body[: files.breaks_after.pop(0)] if files.breaks_after else body
            with suppress(ConnectionError):
                self.wfile.write(body[: len(body) // 2])
                if files.gate is not None:
                    files.gate.wait(60)
                self.wfile.write(body[len(body) // 2 :])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
