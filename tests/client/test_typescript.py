"""Runs the TypeScript client's own tests against real servers, and checks the package that users get."""

import json
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

import images
from authority import Authority
from case_server import case_server
from fake_server import Held, composite, fake_server
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from node_package import PACKAGE, npm, run

__all__ = ["npm"]  # a fixture

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-some-length"


class Deaf:
    """Never answers a photo; its list of models holds how many calls it has seen, and how many were cancelled.

    For the model "breaks" the first two answers break off after their first word; for "busy" the first two are refused
    for a while.
    """

    def __init__(self) -> None:
        self._held = Held()
        self._numbers = count(1)
        self._refused: list[float] = []

    def answer(self, request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        if request.model == "breaks":
            number = next(self._numbers)
            context.send_initial_metadata((("x-request-id", str(number)),))
            if number <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
            return composite()
        if request.model == "busy":
            self._refused.append(time.monotonic())
            if len(self._refused) <= 2:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "400"),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
            pauses = [later - earlier for earlier, later in pairwise(self._refused)]
            patient = min(pauses) >= 0.39  # grpc-js's own first pause would be at most 0.12 s
            return composite(b"patient" if patient else b"hasty")
        return self._held(context)

    def list_models(self) -> pb.ListModelsResponse:
        counts = {"begun": self._held.begun, "cancelled": self._held.cancelled}
        return pb.ListModelsResponse(default_model=json.dumps(counts), limits=pb.Limits())


def deaf_server() -> AbstractContextManager[str]:
    deaf = Deaf()
    return fake_server(deaf.answer, deaf.list_models)


def secure_server(model: Path, folder: Path) -> tuple[LocalServer, dict[str, str]]:
    """Returns a server with mutual TLS and a token, and what a client needs for it."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "tokens").write_text(f"tests:{TOKEN}\n")
    (folder / "tokens").chmod(0o600)
    certificate, key = authority.issue().write(folder)
    own, own_key = authority.issue("caller").write(folder, "caller")
    files = {"--tls-certificate": certificate, "--tls-key": key, "--tls-client-ca": folder / "ca.pem"}
    files["--token-file"] = folder / "tokens"
    flags = [word for flag, path in files.items() for word in (flag, str(path))]
    needed = {"ca": str(folder / "ca.pem"), "certificate": str(own), "key": str(own_key), "token": TOKEN}
    return LocalServer([model], ["--provider", "cpu", *flags]), needed


def place_of(server: LocalServer) -> dict[str, Any]:
    return {"address": server.address, "pid": server.pid}


@pytest.fixture
def places(server: LocalServer, strict_server: LocalServer, colour_model: Path, tmp_path: Path) -> Generator[Path]:
    """Writes where the servers and the photo are into a file for Node."""
    (tmp_path / "photo.png").write_bytes(images.encode(images.scene()))
    secure, needed = secure_server(colour_model, tmp_path)
    with ExitStack() as stack:
        victim = stack.enter_context(LocalServer([colour_model], ["--provider", "cpu"]))
        stack.enter_context(secure)
        found = {
            "server": place_of(server),
            "victim": place_of(victim),
            "strict": place_of(strict_server),
            "secure": place_of(secure) | needed,
            "cases": stack.enter_context(case_server()),
            "deaf": [stack.enter_context(deaf_server()), stack.enter_context(deaf_server())],
            "table": str(ROOT / "clients" / "cases.json"),
            "photo": str(tmp_path / "photo.png"),
            "folder": str(tmp_path),
        }
        (tmp_path / "places.json").write_text(json.dumps(found))
        yield tmp_path / "places.json"


def test_its_own_tests(npm: str, places: Path) -> None:
    report = run(npm, "test", MATTEBOX_TEST_PLACES=str(places))
    assert "fail 0" in report
    cases = json.loads((ROOT / "clients" / "cases.json").read_text())
    for section in ("options", "invalid", "refused", "statuses", "results"):
        for case in cases[section]:
            assert f"{section}: {case['name']}" in report


def test_the_package_holds_what_users_need_and_nothing_else(npm: str) -> None:
    (packed,) = json.loads(run(npm, "pack", "--dry-run", "--json", "--loglevel=error"))
    names = {file["path"] for file in packed["files"]}
    modules = {path.relative_to(PACKAGE / "src").with_suffix("") for path in (PACKAGE / "src").rglob("*.ts")}
    built = {f"dist/{module}{suffix}" for module in modules for suffix in (".js", ".d.ts")}
    assert names == built | {"package.json", "README.md", "LICENSE"}
    assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
