"""A TCP proxy that stops forwarding after some bytes, so that a caller seems to send or receive slowly."""

import contextlib
import socket
import threading
from types import TracebackType


class Proxy:
    """Forwards connections to a server; each direction of each connection pauses after some bytes, until `release`.

    Args:
        address: HOST:PORT of the server.
        up_bytes: bytes that pass from the caller to the server before the pause; None for no pause.
        down_bytes: bytes that pass from the server to the caller before the pause; None for no pause.
    """

    def __init__(self, address: str, up_bytes: int | None = None, down_bytes: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._limits = up_bytes, down_bytes
        self._released = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()
        self._listener.close()

    def release(self) -> None:
        """Ends the pauses: from now on all bytes pass."""
        self._released.set()

    def cut(self) -> None:
        """Closes all connections; new ones are still accepted."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._released.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [caller, server]
                for source, sink, limit in ((caller, server, self._limits[0]), (server, caller, self._limits[1])):
                    threading.Thread(target=self._forward, args=(source, sink, limit), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16_384):
                passed += len(data)
                if limit is not None and passed > limit:
                    self._released.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
