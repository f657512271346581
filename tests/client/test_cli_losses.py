"""The command line where results could get lost: equal names, folders that can't be read, and interruptions."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

import images
from command_line import Command, files, run
from fake_server import Held, composite, fake_server
from mattebox.cli.jobs import Naming, plan_folder
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from waiting import eventually

PHOTO = images.encode(images.scene(48, 32), "JPEG")
LARGE = images.encode(images.textured(1600, 1200), "JPEG")


@pytest.fixture(name="photos")
def _photos(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO)
    return photos


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photos/a.jpg", "-o", "out.png", "--alpha", "out.png"], "a.jpg and its matte would both become out.png"),
        (["photos/a.jpg", "-o", "photos/a.jpg"], "would be replaced"),
        (["photos/a.jpg", "-o", "out.png", "--name", "{stem}.png"], "--name {stem}.png: names files in a folder"),
        (
            ["photos", "-o", "photos", "--watch", "--name", "{stem}-cut.png"],
            "photos is one of the watched folders",
        ),
    ],
)
def test_what_would_be_lost_is_refused(
    server: LocalServer, photos: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], says: str
) -> None:
    monkeypatch.chdir(photos.parent)
    done = run(server, "remove", *words)
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert files(photos.parent) == ["photos/a.jpg"]


def test_a_watch_outlives_a_photo_of_the_same_name(server: LocalServer, photos: Path) -> None:
    out = photos.parent / "out"
    with Command(server.address, "remove", str(photos), "-o", str(out), "--watch") as command:
        eventually(lambda: files(out) == ["a.png"])
        before = (out / "a.png").stat()
        (photos / "a.png").write_bytes(LARGE)
        (photos / "b.jpg").write_bytes(PHOTO)
        eventually(lambda: any("b.png: " in line for line in command.errors))
        assert command.stop(signal.SIGTERM) == 143
    assert "2 done, 1 failed" in command.errors[-1]
    assert any("would both become" in line for line in command.errors)
    assert (out / "a.png").stat() == before


def test_a_result_whose_matte_is_missing_is_not_skipped(server: LocalServer, photos: Path) -> None:
    out = photos.parent / "out"
    words = ("remove", str(photos), "-o", str(out), "--skip-existing")
    assert run(server, *words).returncode == 0
    again = run(server, *words, "--alpha", "{stem}-alpha.png")
    assert again.stderr.decode().splitlines()[-1] == "1 done"
    assert files(out) == ["a-alpha.png", "a.png"]


def test_names_as_long_as_can_be(server: LocalServer, photos: Path) -> None:
    (photos / f"{'x' * 251}.jpg").write_bytes(PHOTO)
    done = run(server, "remove", str(photos), "-o", str(photos.parent / "out"))
    assert done.returncode == 0, done.stderr


def test_a_folder_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:  # root, who runs tests in containers, may read everything
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="deep"):
        plan_folder([str(tmp_path)], tmp_path / "out", Naming("{stem}.{suffix}", None, "png"), False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_what_is_done_and_what_failed(photos: Path, number: int, code: int) -> None:
    out, held = photos.parent / "out", Held()
    (photos / "b.jpg").write_bytes(b"refused")
    for name in "cdefghi":
        (photos / f"{name}.jpg").write_bytes(b"held")

    def answer(request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        if request.encoded == b"refused":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no photo")
        return held(context) if request.encoded == b"held" else composite()

    words = ("remove", str(photos), "-o", str(out), "--json", "--concurrency", "2")
    with fake_server(answer) as address, Command(address, *words) as command:
        eventually(lambda: held.begun == 2 and len(command.output) == 2)
        assert command.stop(number) == code
    last = json.loads(command.output[-1])
    assert last == {"done": 1, "failed": 1, "existing": 0, "no_photos": 0}
    assert files(out) == ["a.png"]
    assert command.errors == ["mattebox: interrupted: 1 of 9 done"]


def test_json_of_one_photo(server: LocalServer, photos: Path) -> None:
    out = str(photos.parent / "out.png")
    (photos / "broken.jpg").write_bytes(b"no photo")
    broken = run(server, "remove", str(photos / "broken.jpg"), "-o", out, "--json")
    assert broken.returncode == 2
    error, last = (json.loads(line) for line in broken.stdout.splitlines())
    assert (error["code"], last["failed"]) == ("INVALID_ARGUMENT", 1)
    done, last = run(server, "remove", str(photos / "a.jpg"), "-o", out, "--json").stdout.splitlines()
    assert json.loads(done)["out"] == out
    assert json.loads(last)["done"] == 1
    assert images.decode(Path(out).read_bytes()).shape == (32, 48, 3)
    there = run(server, "remove", str(photos / "a.jpg"), "-o", out, "--json", "--skip-existing")
    assert json.loads(there.stdout) == {"done": 0, "failed": 0, "existing": 1, "no_photos": 0}
