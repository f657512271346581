"""Command line of the client: `mattebox remove`, `models`, `ping`, `bench`."""

from mattebox.cli.app import app

__all__ = ["app"]
