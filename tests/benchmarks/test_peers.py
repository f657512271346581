"""Peers of the load benchmark are started, called and ended. `python -m load.peers` tries the real ones."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from load.drivers import CannotRun
from load.peers import environment, peers
from load.peers import peer as peer_module
from load.peers.callers import HttpCaller
from load.peers.environment import Environment, Patch
from load.peers.messages import BytesValueCodec, InferCodec
from load.peers.peer import Launch, Peer, Place

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG and so on"

# A server that answers by status, and leaves a daemon behind, in a session of its own.
SERVER = r"""
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time, os; os.fork() or (os.setsid(), time.sleep(600))"]).wait()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = b"\x89PNG and so on"
        self.send_response(503 if b"busy" in body else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def fake(server: str = SERVER) -> Peer:
    def launch(place: Place) -> Launch:
        return Launch((sys.executable, "-c", server, str(place.port)), {})

    def caller(port: int) -> HttpCaller:
        return HttpCaller(f"http://127.0.0.1:{port}/", "photo")

    return Peer("fake", {}, Environment("rembg"), launch, caller, b"photo")


def wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def gone(pids: list[int]) -> bool:
    family = [process for process in psutil.process_iter() if process.pid in pids]
    return not any(peer_module.runs(process) for process in family)


def test_a_peer_answers_and_leaves_nothing_behind() -> None:
    with fake().start() as running:
        pids = running.pids
        assert len(pids) == 2  # the server and its daemon

        async def calls() -> list[tuple[str, int]]:
            caller = await running.connect()
            answers = [await caller.call(photo, 10) for photo in (b"photo", b"busy")]
            await caller.close()
            return [(answer.status, answer.bytes_out) for answer in answers]

        assert asyncio.run(calls()) == [("OK", len(PNG)), ("HTTP 503", 0)]
    assert gone(pids)


def test_a_peer_ends_with_the_benchmark(tmp_path: Path) -> None:
    """A benchmark that is killed can't stop its peer; the peer's keeper does."""
    script = tmp_path / "benchmark.py"
    script.write_text(
        "import test_peers, time\n"
        "with test_peers.fake().start() as running:\n"
        "    print(*running.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    places = [Path(__file__).parent, ROOT / "tests", ROOT / "benchmarks", *(Path(path) for path in sys.path if path)]
    environment = {"PYTHONPATH": ":".join(map(str, places)), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as benchmark:
        assert benchmark.stdout is not None
        pids = [int(word) for word in benchmark.stdout.readline().split()]
        assert len(pids) == 2
        benchmark.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(pids))


def test_a_server_that_ends_says_why() -> None:
    with pytest.raises(CannotRun, match="has ended: no room here"), fake("raise SystemExit('no room here')").start():
        pass


def test_a_server_that_nobody_can_talk_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_START_S", 1.0)
    silent = "import time; print('still loading', flush=True); time.sleep(600)"
    with pytest.raises(CannotRun, match=r"ClientConnectorError(.|\n)*still loading"), fake(silent).start():
        pass


def test_an_environment_that_cant_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "CACHE", tmp_path)
    with pytest.raises(CannotRun, match="there is no /nowhere/python"):
        Environment("triton", Path("/nowhere/python")).prepare()


def test_patches(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("listen('[::]')\n")
    Patch("*.py", "[::]", "127.0.0.1").apply(tmp_path)
    assert (tmp_path / "file.py").read_text() == "listen('127.0.0.1')\n"
    with pytest.raises(CannotRun, match="doesn't hold"):
        Patch("*.py", "[::]", "127.0.0.1").apply(tmp_path)


def test_all_peers_have_settings() -> None:
    for comparison in ("same engine", "as shipped"):
        named = {peer.name: peer.settings for peer in peers(comparison, 2, b"")}
        assert list(named) == ["rembg", "LitServe", "BentoML", "Ray Serve", "Triton"]
        assert all({"versions", "transport", "server", "engine", "pixels"} <= set(told) for told in named.values())


def test_messages() -> None:
    """Messages are compared byte by byte; the tag of a field with a length is its number * 8 + 2."""
    assert BytesValueCodec().decode(BytesValueCodec().encode(b"file")) == b"file"
    codec = InferCodec()
    tensor = b"\x0a\x05photo" + b"\x12\x05UINT8" + b"\x1a\x01\x04"
    assert codec.encode(b"file") == b"\x0a\x06cutout" + b"\x2a" + bytes([len(tensor)]) + tensor + b"\x3a\x04file"
    assert codec.decode(b"\x0a\x06cutout" + b"\x32\x03png") == b"png"
