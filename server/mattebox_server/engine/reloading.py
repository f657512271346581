"""Reloads models when somebody asks, and when a file has changed if that was asked for."""

import threading

from mattebox_server.engine.engine import Engine


class Reloader:
    """A thread that reloads, so that reloads never meet and the event loop never waits.

    Who asks while a reload goes on gets one after it: the file may have changed meanwhile.

    Args:
        engine: whose networks are reloaded.
        poll_s: how often to look whether a file has changed; None for never.
    """

    def __init__(self, engine: Engine, poll_s: float | None) -> None:
        self._engine, self._poll_s = engine, poll_s
        self._changed = threading.Condition()
        self._asked = self._closed = False
        threading.Thread(target=self._work, name="reloading", daemon=True).start()

    def ask(self) -> None:
        """Reloads every model; returns at once."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def close(self) -> None:
        """Starts no further reload, and doesn't wait for one that goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closed, self._poll_s)
                if self._closed:
                    return
                asked, self._asked = self._asked, False
            if asked:
                self._engine.reload()
            else:
                self._engine.reload_changed()
