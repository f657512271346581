"""Servers and connections that fail, with both Python clients: each gives the right exception within the deadline."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import grpc
import pytest

import images
import mattebox
from authority import Authority
from command_line import sigint_interrupts
from fake_server import Held, composite, fake_server
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from shells import open_shell
from waiting import eventually

PHOTO = images.encode(images.scene())
LARGE = images.encode(images.textured(2400, 1800), "BMP")
BOTH = pytest.mark.parametrize("kind", ["sync", "async"])
NO_HANG_S = 30


@BOTH
def test_killed_in_the_middle_of_a_call(colour_model: Path, kind: str) -> None:
    with LocalServer([colour_model]) as server:
        client = open_shell(kind, server.address, retries=0)
        client.wait_until_ready()
        os.kill(server.pid, signal.SIGSTOP)
        killer = threading.Timer(0.5, os.kill, (server.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(mattebox.Unavailable):
            client.remove_background(PHOTO, timeout=NO_HANG_S)
        client.close()


@BOTH
def test_a_server_that_hangs(colour_model: Path, kind: str) -> None:
    """No call outlives its timeout: neither with retries, nor in a batch."""
    with LocalServer([colour_model]) as server:
        client = open_shell(kind, server.address)
        client.wait_until_ready()
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(mattebox.DeadlineExceeded):
            client.remove_background(PHOTO, timeout=0.5)
        items = list(client.remove_backgrounds([PHOTO] * 3, timeout=0.5, errors="return"))
        assert {type(item.error) for item in items} == {mattebox.DeadlineExceeded}
        with pytest.raises(mattebox.DeadlineExceeded, match="no server was ready within 1 s"):
            client.wait_until_ready(timeout=1)
        with pytest.raises(mattebox.DeadlineExceeded):
            client.models(timeout=0.2)
        os.kill(server.pid, signal.SIGCONT)
        client.wait_until_ready()
        assert client.remove_background(PHOTO).width == 96
        client.close()


@BOTH
def test_no_server_there(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    client = open_shell(kind, address)
    with pytest.raises(mattebox.Unavailable):
        client.remove_background(PHOTO, timeout=NO_HANG_S)
    assert not client.ready()
    with pytest.raises(mattebox.DeadlineExceeded, match="refused"):
        client.wait_until_ready(timeout=0.5)
    client.close()
    unknown = open_shell(kind, "nowhere.invalid:1")
    with pytest.raises((mattebox.Unavailable, mattebox.DeadlineExceeded)):
        unknown.remove_background(PHOTO, timeout=3)
    unknown.close()


@BOTH
def test_something_else_listens_there(kind: str) -> None:
    """The listener accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = open_shell(kind, f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises((mattebox.DeadlineExceeded, mattebox.Unavailable)):
            client.remove_background(PHOTO, timeout=1)
        client.close()


@BOTH
def test_a_server_that_starts_is_waited_for(colour_model: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    client = open_shell(kind, address)
    assert not client.ready()
    with ThreadPoolExecutor(1) as pool:
        waiting = None if kind == "async" else pool.submit(client.wait_until_ready)
        with LocalServer([colour_model], ["--address", address]):
            client.wait_until_ready()
            assert waiting is None or waiting.result(timeout=NO_HANG_S) is None
            assert client.remove_background(PHOTO).width == 96
    client.close()


@BOTH
def test_tls_and_plaintext(colour_model: Path, kind: str, tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue().write(tmp_path)
    with LocalServer([colour_model], ["--tls-certificate", str(certificate), "--tls-key", str(key)]) as encrypted:
        plain_client = open_shell(kind, encrypted.address, retries=1)
        with pytest.raises(mattebox.Unavailable):
            plain_client.remove_background(PHOTO, timeout=NO_HANG_S)
        plain_client.close()
    with LocalServer([colour_model]) as plain:
        tls_client = open_shell(kind, plain.address, tls=mattebox.Tls(authority.certificate), retries=1)
        with pytest.raises(mattebox.Unavailable):
            tls_client.remove_background(PHOTO, timeout=NO_HANG_S)
        assert not tls_client.ready()
        tls_client.close()


@BOTH
def test_messages_that_are_too_large(colour_model: Path, kind: str) -> None:
    with LocalServer([colour_model], ["--max-photo-bytes", "1000000"]) as server:
        client = open_shell(kind, server.address)
        with pytest.raises(mattebox.MessageTooLarge):  # by the server
            client.remove_background(LARGE)
        client.close()
        client = open_shell(kind, server.address, max_message_bytes=2000)
        with pytest.raises(mattebox.MessageTooLarge):  # by the client, as a request
            client.remove_background(LARGE)
        output = mattebox.Output(format="raw")
        with pytest.raises(mattebox.MessageTooLarge):  # by the client, as an answer
            client.remove_background(PHOTO, output=output)
        client.close()


class Breaking:
    """A server whose first answers break off after their first word."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.numbers = count(1)
        self.calls: list[int] = []

    def __call__(self, _: object, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        number = next(self.numbers)
        self.calls.append(number)
        context.send_initial_metadata((("x-request-id", "1"),))
        if number <= self.times:
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
        return composite()


@pytest.fixture
def breaking(request: pytest.FixtureRequest) -> Generator[tuple[Breaking, str]]:
    answer = Breaking(request.param)
    with fake_server(answer) as address:
        yield answer, address


@BOTH
@pytest.mark.parametrize("breaking", [2], indirect=True)
def test_an_answer_that_breaks_off(breaking: tuple[Breaking, str], kind: str) -> None:
    """The client repeats the call, as gRPC repeats none whose answer has begun."""
    answer, address = breaking
    client = open_shell(kind, address)
    assert client.remove_background(PHOTO).image == b"x"
    assert len(answer.calls) == 3
    answer.numbers = count(1)
    assert all(item.result for item in client.remove_backgrounds([PHOTO] * 5))
    assert len(answer.calls) == 10
    client.close()


@BOTH
@pytest.mark.parametrize("breaking", [9], indirect=True)
def test_answers_that_always_break_off(breaking: tuple[Breaking, str], kind: str) -> None:
    answer, address = breaking
    client = open_shell(kind, address, retries=2)
    with pytest.raises(mattebox.Unavailable, match="broken off"):
        client.remove_background(PHOTO)
    assert len(answer.calls) == 3
    client.close()


def test_an_interrupted_wait_cancels_the_call() -> None:
    """The server sends SIGINT to the main thread when the call has come, as Ctrl-C does."""
    main, held = threading.main_thread().ident, Held()
    assert main is not None

    def answer(_: object, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        signal.pthread_kill(main, signal.SIGINT)
        return held(context)

    with sigint_interrupts(), fake_server(answer) as address, mattebox.Client(address) as client:
        with pytest.raises(KeyboardInterrupt):
            client.remove_background(PHOTO)
        eventually(lambda: held.cancelled == held.begun == 1)


def test_ctrl_c_at_any_moment_lets_the_client_close(colour_model: Path) -> None:
    """That includes the moment in which a call begins, when gRPC alone would wait for the call's end for ever."""
    with LocalServer([colour_model]) as server:
        command = [sys.executable, "-c", _INTERRUPTED, server.address, "40"]
        with sigint_interrupts():
            done = subprocess.run(command, input=LARGE, capture_output=True, check=False, timeout=4 * NO_HANG_S)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().split() == ["KeyboardInterrupt"] * 40


_INTERRUPTED = """
import _thread, random, sys, threading
import mattebox

photo, wait = sys.stdin.buffer.read(), random.Random(1)
for _ in range(int(sys.argv[2])):
    with mattebox.Client(sys.argv[1]) as client:
        client.wait_until_ready()
        try:
            threading.Timer(wait.uniform(0, 0.1), _thread.interrupt_main).start()
            for _ in client.remove_backgrounds([photo] * 50, concurrency=2, output=mattebox.Output(size=64)):
                pass
        except KeyboardInterrupt as error:
            print(type(error).__name__)
"""


def test_calls_of_the_main_thread_begin_on_one_other_thread(server: LocalServer) -> None:
    def starters() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("mattebox-starter")]

    with mattebox.Client(server.address) as client:
        assert starters() == []
        for _ in range(3):
            client.remove_background(PHOTO)
        assert len(list(client.remove_backgrounds([PHOTO] * 3))) == 3
        assert len(starters()) == 1
    eventually(lambda: starters() == [])


def test_a_client_may_be_used_after_a_fork(server: LocalServer) -> None:
    """The child of a fork has none of its parent's threads."""
    command = [sys.executable, "-c", _FORKED, server.address]
    done = subprocess.run(command, input=PHOTO, capture_output=True, check=False, timeout=NO_HANG_S)
    assert done.returncode == 0, done.stderr.decode()


_FORKED = """
import os, sys
import mattebox

photo = sys.stdin.buffer.read()
with mattebox.Client(sys.argv[1]) as client:
    client.remove_background(photo)
    if not (child := os.fork()):
        os._exit(0 if client.remove_background(photo).width == 96 else 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_silent_connection_is_given_up(colour_model: Path) -> None:
    """The server is stopped, but its kernel keeps the connection; the call ends long before its own timeout."""
    with LocalServer([colour_model]) as server, mattebox.Client(server.address, retries=0, keepalive=10) as client:
        client.wait_until_ready()
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(mattebox.Unavailable, match=r"(?i)ping|keepalive"):
            client.remove_background(PHOTO, timeout=120)
        os.kill(server.pid, signal.SIGCONT)


def test_keepalive_out_of_range() -> None:
    for seconds in (0, 9.9, -1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="keepalive"):
            mattebox.Client(keepalive=seconds)
    mattebox.Client(keepalive=None).close()
