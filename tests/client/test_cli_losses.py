"""The command line where something could get lost: results of one name, folders that can't be read, ends in between."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

import images
from command_line import files, run, start
from mattebox.cli.jobs import Naming, plan_folder
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
        (["photos/a.jpg", "-o", "photos/a.jpg"], "would be written over"),
        (["photos/a.jpg", "-o", "out.png", "--name", "{stem}.png"], "--name {stem}.png: is for a folder"),
        (["photos", "-o", "photos", "--watch", "--name", "{stem}-cut.png"], "--watch: --out photos is watched itself"),
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
    process = start(server, "remove", str(photos), "-o", str(out), "--watch")
    eventually(lambda: files(out) == ["a.png"])
    before = (out / "a.png").stat()
    (photos / "a.png").write_bytes(LARGE)
    (photos / "b.jpg").write_bytes(PHOTO)
    eventually(lambda: "b.png" in files(out))
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "2 done, 1 failed" in told
    assert "would both become" in told
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
def test_an_interruption_says_what_is_done_and_what_failed(
    server: LocalServer, photos: Path, number: int, code: int
) -> None:
    out = photos.parent / "out"
    (photos / "00.jpg").write_bytes(b"no photo")
    for name in range(80):
        (photos / f"b{name:02}.jpg").write_bytes(LARGE)
    process = start(server, "remove", str(photos), "-o", str(out), "--json", "--concurrency", "2")
    eventually(lambda: out.is_dir() and len(files(out)) >= 3)
    process.send_signal(number)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == code
    *_, last = (json.loads(line) for line in told.splitlines())
    assert last["failed"] == 1
    assert len(files(out)) < 81
    assert len(files(out)) - last["done"] in (0, 1)  # a file may be there whole a moment before it is counted
    assert errors.splitlines()[-1] == f"mattebox: interrupted: {last['done']} of 82 done"


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
