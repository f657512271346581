"""The examples in the SDK's docstrings run as they stand, against a real server."""

import asyncio
import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

import images
import mattebox
from mattebox import _core
from mattebox_server.local import LocalServer

FOLDER = Path(mattebox.__path__[0])
MODULES = sorted(f"mattebox.{path.stem}" for path in FOLDER.glob("*.py") if ">>>" in path.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str, server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").write_bytes(images.encode(images.scene(), "JPEG"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"mattebox": mattebox, "asyncio": asyncio}
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(importlib.import_module(module), globs=names):
        for example in test.examples:
            # Free ports, and the names of the networks at hand, in place of those that a reader has.
            example.source = example.source.replace(_core.DEFAULT_ADDRESS, server.address)
            example.source = example.source.replace("Client()", f"Client({server.address!r})")
            example.want = example.want.replace("u2netp", "colour")
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_the_faces_of_the_clients_have_examples() -> None:
    many, many_waiting = mattebox.Client.remove_backgrounds, mattebox.AsyncClient.remove_backgrounds
    things: list[object] = [mattebox.Client, mattebox.AsyncClient, mattebox.Client.remove_background, many]
    for thing in (*things, many_waiting, mattebox.Output, mattebox.Background):
        assert ">>>" in (thing.__doc__ or "")
