"""Reloads models on demand (SIGHUP), and when their files have changed if the operator wants that."""

import threading

from mattebox_server.engine.engine import Engine


class Reloader:
    """One thread that does all reloads, so that the event loop never waits for one.

    If a reload is asked for while another goes on, it follows that one, because files may have changed meanwhile.

    Args:
        engine: engine whose networks are reloaded.
        poll_s: seconds between two looks at the files; None means that they are not looked at.
    """

    def __init__(self, engine: Engine, poll_s: float | None) -> None:
        self._engine, self._poll_s = engine, poll_s
        self._changed = threading.Condition()
        self._asked = self._closed = False
        threading.Thread(target=self._work, name="reloading", daemon=True).start()

    def ask(self) -> None:
        """Asks for a reload of every model, without waiting for it."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread, without waiting for a reload that goes on."""
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
