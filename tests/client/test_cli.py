"""The command line as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

import images
from command_line import run
from mattebox_server.local import LocalServer

PHOTO = images.encode(images.scene())


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    path.write_bytes(PHOTO)
    return str(path)


def test_remove(server: LocalServer, photo: str, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = run(server, "remove", photo, "-o", str(out), "--background", "#0000ff", "--keep", "green", "--matte", "none")
    assert done.returncode == 0, done.stderr
    composite = images.decode(out.read_bytes())
    assert tuple(composite[40, 5]) == (0, 0, 255)
    assert tuple(composite[20, 60]) == (20, 200, 20)
    assert b"96x64 png, found green 6%" in done.stderr


def test_every_option(server: LocalServer, photo: str, tmp_path: Path) -> None:
    out, alpha = tmp_path / "out.jpeg", tmp_path / "alpha.png"
    options = ("--quality", "70", "--size", "48", "--alpha", str(alpha), "--model", "colour", "--blur-kernel", "3")
    done = run(server, "remove", photo, "-o", str(out), *options, "--matte", "gaussian", "--timeout", "20")
    assert done.returncode == 0, done.stderr
    assert images.decode(out.read_bytes()).shape == (32, 48, 3)
    assert images.decode(alpha.read_bytes()).shape == (32, 48)


def test_pipe(server: LocalServer) -> None:
    done = run(server, "remove", "-", "-o", "-", "--format", "webp", "--background", "transparent", stdin=PHOTO)
    assert done.returncode == 0, done.stderr
    assert images.decode(done.stdout).shape == (64, 96, 4)


def test_without_out_the_result_lies_beside_the_photo(server: LocalServer, photo: str) -> None:
    done = run(server, "remove", photo)
    assert done.returncode == 0, done.stderr
    assert images.decode(Path(photo).with_suffix(".mattebox.png").read_bytes()).shape == (64, 96, 3)
    assert run(server, "remove", photo, "--format", "webp", "--background", "transparent").returncode == 0
    assert images.decode(Path(photo).with_suffix(".mattebox.webp").read_bytes()).shape == (64, 96, 4)
    assert images.decode(run(server, "remove", "-", stdin=PHOTO).stdout).shape == (64, 96, 3)


def test_ping_and_models(server: LocalServer) -> None:
    assert run(server, "ping").returncode == 0
    done = run(server, "models")
    assert done.returncode == 0
    assert b"colour (default)" in done.stdout
    assert b"brightness" in done.stdout
    nobody = run(None, "ping", "--address", "127.0.0.1:1", "--timeout", "1")
    assert nobody.returncode == 1
    assert b"not serving" in nobody.stdout


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-o", "out.gif"], 2, "the suffix names no format"),
        (["-o", "out.png", "--keep", "cat"], 2, "keep[0]"),
        (["-o", "out.jpg", "--background", "transparent"], 2, "output.format"),
        (["-o", "out.png", "--background", "whiite"], 2, "must be a colour"),
        (["-o", "out.png", "--size", "big"], 2, "--size"),
        (["-o", "out.png", "--model", "nope"], 1, "NOT_FOUND"),
        (["-o", "out.png", "--address", "127.0.0.1:1"], 1, "is mattebox-server running there?"),
        (["-o", "/nowhere/out.png"], 1, "No such file"),
        (["-o", "out.png", "--matte", "magic"], 2, "magic"),
        (["-o", "out.png", "--size", "\u00b2"], 2, "--size"),
        (["-o", "out.png", "--alpha", "-"], 2, "--alpha"),
        (["-o", "out.png", "--background", ""], 2, "must be a colour"),
        (["-o", "out.png", "--address", "127.0.0.1"], 2, "HOST:PORT"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    server: LocalServer, photo: str, options: list[str], code: int, says: str
) -> None:
    done = run(server, "remove", photo, *options)
    assert done.returncode == code
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert not Path("out.png").exists()


def test_closed_standard_streams(server: LocalServer, photo: str) -> None:
    program = f"{sys.executable} -m mattebox remove --address {server.address}"
    for command in (f"{program} - -o /dev/null --format png <&-", f"{program} {photo} -o - >&-"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        assert done.returncode == 1
        assert b"standard" in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_missing_photo(server: LocalServer) -> None:
    done = run(server, "remove", "nowhere.jpg", "-o", "out.png")
    assert done.returncode == 1
    assert b"nowhere.jpg: No such file" in done.stderr
