"""What must not get out: tokens and photos into logs; tokens, paths and stack traces into answers."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image, PngImagePlugin

import images
from authority import replace
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc

TOKEN, WRONG = "good-token-J82h1nQ", "wrong-token-p02Kd8"
HIDDEN = "Holidays-at-52.5N-13.4E"
# A network that fails for photos whose first pixel has 66 as green, and the real server around it.
PROGRAM = """
import sys
from fakes import FakeSession, engine_of
from mattebox_server import __main__, app
app.load_engine = lambda *_: engine_of(FakeSession())
sys.argv[0] = "mattebox-server"
sys.exit(__main__.main())
"""


def photo(first_green: int = 0) -> bytes:
    """Its file says where it was taken."""
    pixels = images.scene()
    pixels[:] = (0, first_green, 0)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", HIDDEN)
    return images.encode(pixels, pnginfo=notes)


def photo_with_exif() -> bytes:
    """A TIFF, of whose every tag Pillow tells at the level debug."""
    exif = Image.Exif()
    exif[0x010E] = HIDDEN  # ImageDescription
    return images.encode(images.scene(), "TIFF", exif=exif)


@dataclass
class Process:
    """A server whose log is kept as text."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list[str])
    address: str = ""

    def read(self, serving: threading.Event) -> None:
        for line in self.process.stderr or ():
            self.lines.append(line)
            found = re.search(r"127\.0\.0\.1:\d+", line)
            if found and "serving" in line:
                self.address = found[0]
                serving.set()
        serving.set()


@pytest.fixture(params=["console", "json"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Process]:
    file = tmp_path / "the-token-file"
    replace(file, f"shop:{TOKEN}\n".encode())
    flags = ["--model", "any.onnx", "--address", "127.0.0.1:0", "--token-file", str(file)]
    command = [sys.executable, "-c", PROGRAM, *flags, "--log-level", "debug", "--log-format", request.param]
    path = [str(Path(__file__).parents[1]), *sys.path]
    environment = {"PYTHONPATH": ":".join(path), "PATH": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        server, serving = Process(process), threading.Event()
        reader = threading.Thread(target=server.read, args=(serving,))
        reader.start()
        try:
            assert serving.wait(60)
            assert server.address, server.lines
            yield server
        finally:
            process.terminate()
            reader.join()


def test_nothing_leaks_whatever_goes_wrong(server: Process) -> None:
    good, wrong = (("authorization", f"Bearer {TOKEN}"),), (("authorization", f"Bearer {WRONG}"),)
    bad_photo = photo()[:60] + b"\x00" * 400
    cases: list[tuple[grpc.StatusCode, bytes, Any]] = [
        (grpc.StatusCode.OK, photo(), good),
        (grpc.StatusCode.OK, photo_with_exif(), good),
        (grpc.StatusCode.UNAUTHENTICATED, photo(), wrong),
        (grpc.StatusCode.UNAUTHENTICATED, photo(), ()),
        (grpc.StatusCode.UNAUTHENTICATED, photo(), (("authorization", TOKEN),)),
        (grpc.StatusCode.INVALID_ARGUMENT, bad_photo, good),
        (grpc.StatusCode.INVALID_ARGUMENT, HIDDEN.encode() * 100, good),
        (grpc.StatusCode.INTERNAL, photo(66), good),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, photo(), (*good, ("x-note", TOKEN * 4000))),  # gRPC itself refuses it
        (grpc.StatusCode.OK, photo(), (*good, ("x-request-id", TOKEN + "!"))),
        (grpc.StatusCode.OK, photo(), (*good, ("traceparent", f"00-{TOKEN}"), ("cookie", WRONG))),
    ]
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        answers = [one_call(stub, pb.RemoveBackgroundRequest(encoded=data), metadata) for _, data, metadata in cases]
        for model in ("\x1b[2J" + "m" * 500, "any\nno line of its own"):
            code, told = one_call(stub, pb.RemoveBackgroundRequest(encoded=photo(), model=model), good)
            assert code is grpc.StatusCode.NOT_FOUND
            answers.append((code, told))
    assert [code for code, _ in answers[: len(cases)]] == [code for code, _, _ in cases]
    server.process.terminate()
    server.process.wait()
    told, log = "".join(text for _, text in answers), "".join(server.lines)
    for secret in (TOKEN, WRONG, HIDDEN, "IHDR", "the-token-file", "Traceback", ".py", "on fire", "/tmp"):
        assert secret not in told, secret
    for secret in (TOKEN, WRONG, HIDDEN, "IHDR", "\\x89PNG", "\x1b[2J", "\nno line", "m" * 65):
        assert secret not in log, secret
    assert "the device is on fire" in log  # the stack trace is for the operator
    assert "Traceback" in log


def one_call(stub: Any, request: pb.RemoveBackgroundRequest, metadata: Any) -> tuple[grpc.StatusCode, str]:
    """The status, and everything that the caller is told but for the picture."""
    try:
        answer, call = stub.RemoveBackground.with_call(request, timeout=30, metadata=metadata)
        answer.ClearField("image")
        return grpc.StatusCode.OK, f"{answer} {call.initial_metadata()} {call.trailing_metadata()}"
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        told = f"{error.details()} {error.initial_metadata()} {error.trailing_metadata()}"
        return error.code(), told
