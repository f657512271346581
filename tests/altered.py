"""Real servers whose constants are others: shorter waits, fewer requests at once."""

from collections.abc import Sequence
from pathlib import Path

from mattebox_server.local import LocalServer

ONE_AT_A_TIME = "settings.Settings.active_on = lambda *_: 1"
"""The server works on one request of each model at once."""


def altered_server(
    models: Sequence[Path | str], flags: Sequence[str], *statements: str, environment: dict[str, str] | None = None
) -> LocalServer:
    """A server that runs these statements before it starts; they find `app` and `settings`."""
    code = ["from mattebox_server import __main__, app, settings", *statements, "raise SystemExit(__main__.main())"]
    return LocalServer(models, flags, environment, program=("-c", "\n".join(code)))
