"""The command line with folders: the photos that it takes, the names of results, failures and interruptions."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import images
from case_server import case_server
from command_line import Command, files, run
from fake_server import Held, composite, fake_server
from mattebox.cli.jobs import Naming, plan_folder
from mattebox.cli.watching import News
from mattebox.cli.writing import write_whole
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from waiting import answered, eventually

PHOTO = images.encode(images.scene(48, 32), "JPEG")
LARGE = images.encode(images.textured(1600, 1200), "JPEG")
PNGS = Naming("{stem}.{suffix}", None, "png")


@pytest.fixture(name="photos")
def _photos(tmp_path: Path) -> Path:
    """Makes photos/a.jpg, photos/b.JPEG, photos/deep/er/c.png, and two files that are not to be taken."""
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    for name in ("a.jpg", "b.JPEG", "deep/er/c.png"):
        (photos / name).write_bytes(PHOTO)
    (photos / "notes.txt").write_text("no photo")
    (photos / ".hidden.jpg").write_bytes(PHOTO)
    return photos


def test_two_hundred_photos_with_five_broken_ones(colour_model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    broken = {f"{number:03}.jpg" for number in (0, 50, 99, 100, 199)}
    for number in range(200):
        name = f"{number:03}.jpg"
        (photos / name).write_bytes(PHOTO[:200] if name in broken else PHOTO)
    with LocalServer([colour_model], ["--provider", "cpu"]) as server:
        done = run(server, "remove", str(photos), "-o", str(out))
        assert done.returncode == 1
        assert len(files(out)) == 195
        lines = done.stderr.decode().splitlines()
        errors = [line for line in lines if line.startswith("mattebox: ")]
        assert {Path(line.split(": ")[1]).name for line in errors} == broken
        assert all("encoded" in line for line in errors)
        assert lines[-1] == "195 done, 5 failed"
        before = answered(server)
        for name in broken:
            (photos / name).write_bytes(PHOTO)
        again = run(server, "remove", str(photos), "-o", str(out), "--skip-existing")
        assert again.returncode == 0, again.stderr
        assert again.stderr.decode().splitlines()[-1] == "5 done, 195 skipped because their results exist"
        assert len(files(out)) == 200
        eventually(lambda: answered(server) == before + 5)


def test_a_tree_is_mirrored(server: LocalServer, photos: Path) -> None:
    out = photos.parent / "out"
    done = run(server, "remove", str(photos), "-o", str(out), "--format", "jpeg", "--name", "{stem}-cut.{suffix}")
    assert done.returncode == 0, done.stderr
    assert files(out) == ["a-cut.jpg", "b-cut.jpg", "deep/er/c-cut.jpg"]
    assert "1 file without the suffix of a photo" in done.stderr.decode()


def test_results_within_the_folder_are_not_taken_again(server: LocalServer, photos: Path) -> None:
    out = photos / "out"
    for _ in range(2):
        done = run(server, "remove", str(photos), "-o", str(out))
        assert done.returncode == 0, done.stderr
        assert files(out) == ["a.png", "b.png", "deep/er/c.png"]


def test_files_patterns_and_mattes(server: LocalServer, photos: Path) -> None:
    out = photos.parent / "out"
    named = str(photos / "notes.txt")  # a file that is named is sent whatever its suffix is
    pattern = str(photos / "**" / "*.png")
    done = run(server, "remove", named, str(photos / "a.jpg"), pattern, "-o", str(out), "--alpha", "{stem}-alpha.png")
    assert done.returncode == 1
    assert "notes.txt: encoded" in done.stderr.decode()
    assert files(out) == ["a-alpha.png", "a.png", "c-alpha.png", "c.png"]
    assert images.decode((out / "a-alpha.png").read_bytes()).shape == (32, 48)
    assert run(server, "remove", str(photos / "a.jpg"), "-o", f"{out}/new/").returncode == 0
    assert files(out / "new") == ["a.png"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photos", "-o", "out", "--name", "{nothing}.png"], "no placeholder {nothing}; the placeholders are {stem}"),
        (["photos", "-o", "out", "--name", "../{stem}.png"], "must be a file's name"),
        (["photos", "-o", "out", "--name", "same.png"], "must be a file's name with {stem}"),
        (["photos", "-o", "out", "--name", "{stem"], "--name {stem"),
        (["photos", "-o", "out", "--alpha", "{stem}.png"], "would both become"),
        (["photos", "-o", "photos", "--name", "{stem}.jpg"], "would be replaced"),
        (["photos", "photos/deep", "-o", "out", "--name", "{stem}.{suffix}", "photos/x/c.bmp"], ""),
        (["photos/*.gif", "-o", "out"], "photos/*.gif: the pattern matches no file"),
        (["photos"], "-o FOLDER: several photos need a folder"),
        (["photos/a.jpg", "--watch"], "-o FOLDER"),
        (["photos", "-o", "-"], "--out -"),
        (["photos/a.jpg", "-o", "-", "--json"], "--out -"),
        (["photos/a.jpg", "-", "-o", "out"], "standard input is one photo"),
        (["photos/a.jpg", "-o", "out", "--watch"], "--watch: the inputs must be folders"),
        (["photos", "-o", "out", "--quality", "0"], "output.quality: must be 1 or more, not 0"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    server: LocalServer, photos: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(photos.parent)
    if not says:
        (photos / "x").mkdir()
        (photos / "x" / "c.bmp").write_bytes(PHOTO)
        words, says = ["photos/deep/er", "photos/x", "-o", "out"], "--name '{stem}-{old_suffix}.{suffix}'"
    done = run(server, "remove", *words)
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert not (photos.parent / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--quality", "5"], "output.quality: is for JPEG and WEBP only"),
        (["--format", "jpeg", "--background", "transparent"], "output.format: JPEG can't be transparent"),
        (["--keep", "unicorn"], "keep[0]: 'unicorn' is no label"),
    ],
)
def test_an_option_that_the_server_refuses_ends_the_run(
    server: LocalServer, photos: Path, words: list[str], says: str
) -> None:
    """The rest of the photos isn't sent, as each would be refused for the same reason."""
    for number in range(20):
        (photos / f"{number}.jpg").write_bytes(PHOTO)
    done = run(server, "remove", str(photos), "-o", str(photos.parent / "out"), "--concurrency", "2", *words)
    assert done.returncode == 2
    first, *others, last = done.stderr.decode().splitlines()
    assert (first.endswith(": failed"), others) == (True, [])
    assert says in last


def test_a_photo_that_is_too_large_for_the_format_is_the_photo_s_error(server: LocalServer, photos: Path) -> None:
    for number, width in enumerate((17_000, 17_001)):
        wide = images.encode(np.full((4, width, 3), 90, np.uint8))
        (photos / f"{number}.png").write_bytes(wide)
    out = photos.parent / "out"
    done = run(server, "remove", str(photos), "-o", str(out), "--format", "webp", "--concurrency", "1")
    assert done.returncode == 1
    assert "3 done, 2 failed" in done.stderr.decode()


def test_a_missing_server_is_reported_once(photos: Path) -> None:
    done = run(None, "remove", str(photos), "-o", str(photos.parent / "out"), "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert len(done.stderr.decode().splitlines()) == 1
    assert "is mattebox-server running there?" in done.stderr.decode()


def test_an_output_that_can_not_be_written(server: LocalServer, photos: Path) -> None:
    out = photos.parent / "out"
    out.mkdir()
    (out / "deep").write_text("a file where a photos has to be")
    done = run(server, "remove", str(photos), "-o", str(out))
    assert done.returncode == 1
    assert "c.png" in done.stderr.decode()
    assert done.stderr.decode().splitlines()[-1].startswith("2 done, 1 failed")


def test_json(server: LocalServer, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no photo")
    done = run(server, "remove", str(photos), "-o", str(photos.parent / "out"), "--json")
    assert done.returncode == 1
    *lines, last = (json.loads(line) for line in done.stdout.splitlines())
    by_name = {Path(line["photo"]).name: line for line in lines}
    assert by_name["broken.png"]["code"] == "INVALID_ARGUMENT"
    assert by_name["a.jpg"]["width"] == 48
    assert Path(by_name["a.jpg"]["out"]).read_bytes()
    assert last == {"done": 3, "failed": 1, "existing": 0, "no_photos": 1}
    assert done.stderr == b""


def on_a_terminal(server: LocalServer, *words: str) -> str:
    """Returns what a command writes to a terminal as its standard error."""
    ours, theirs = pty.openpty()
    environment = dict(os.environ, MATTEBOX_ADDRESS=server.address, TERM="xterm", COLUMNS="100")
    with subprocess.Popen([sys.executable, "-m", "mattebox", *words], stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
        assert process.wait() == 0
    os.close(ours)
    return shown.decode()


def test_people_see_a_bar_and_pipes_get_lines(server: LocalServer, photos: Path) -> None:
    out = str(photos.parent / "out")
    shown = on_a_terminal(server, "remove", str(photos), "-o", out)
    assert "3/3" in shown
    assert "/s" in shown
    assert "3 done" in shown
    plain = run(server, "remove", str(photos), "-o", out).stderr.decode()
    assert "\x1b" not in plain
    assert "a.png: 48x32 png, found" in plain


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_what_is_done_and_cancels_the_rest(tmp_path: Path, number: int, code: int) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for each in range(20):
        (photos / f"{each:02}.jpg").write_bytes(b"answered" if each < 3 else b"held")
    held = Held()

    def answer(request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        return held(context) if request.encoded == b"held" else composite(b"a whole file")

    with fake_server(answer) as address, Command(address, "remove", str(photos), "-o", str(out)) as command:
        eventually(lambda: held.begun == 8 and len(command.errors) == 3)
        assert command.stop(number) == code
        eventually(lambda: held.cancelled == 8)
    assert files(out) == ["00.png", "01.png", "02.png"]
    assert {(out / name).read_bytes() for name in files(out)} == {b"a whole file"}
    assert command.errors[-1] == "mattebox: interrupted: 3 of 20 done"


def test_half_a_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when the first half of the content is written."""
    target, write_bytes = tmp_path / "out.png", Path.write_bytes

    def interrupted(path: Path, content: bytes) -> int:
        write_bytes(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    write_whole(target, b"before")
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(target, b"the new content")
    assert files(tmp_path) == ["out.png"]
    assert target.read_bytes() == b"before"


def test_a_folder_that_is_watched(server: LocalServer, photos: Path) -> None:
    out = photos.parent / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"an older result")
    words = ("remove", str(photos), "-o", str(out), "--watch", "--skip-existing")
    with Command(server.address, *words) as command:
        eventually(lambda: files(out) == ["a.png", "b.png", "deep/er/c.png"])
        (photos / "deep" / "new.jpg").write_bytes(PHOTO)
        (photos / "broken.jpg").write_bytes(b"no photo")
        eventually(lambda: "deep/new.png" in files(out))
        assert (out / "a.png").read_bytes() == b"an older result"
        (photos / "a.jpg").write_bytes(LARGE)  # a photo that changes is taken again
        eventually(lambda: any("a.png: 1600x1200" in line for line in command.errors))
        assert command.stop(signal.SIGINT) == 1
    broken = f"{photos / 'broken.jpg'}: failed"
    assert command.errors.count(broken) == 1  # it is not sent again and again
    assert "4 done, 1 failed" in command.errors[-1]


def test_an_outage_is_waited_for(photos: Path) -> None:
    """The server refuses calls as one that drains does; a call has five attempts, so the sixth is of another call."""
    refused: list[bytes] = []
    outage = threading.Event()

    def answer(request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        if outage.is_set():
            refused.append(request.encoded)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server drains")
        return composite()

    out = photos.parent / "out"
    words = ("remove", str(photos), "-o", str(out), "--watch")
    with fake_server(answer) as address, Command(address, *words) as command:
        eventually(lambda: len(files(out)) == 3)
        outage.set()
        (photos / "late.jpg").write_bytes(b"late")
        eventually(lambda: len(refused) >= 6)
        outage.clear()
        eventually(lambda: any("late.png" in line for line in command.errors))
        assert command.stop(signal.SIGINT) == 0
    assert set(refused) == {b"late"}
    assert "4 done" in command.errors[-1]


def test_an_unknown_model_is_reported_once(server: LocalServer, photos: Path) -> None:
    done = run(server, "remove", str(photos), "-o", str(photos.parent / "out"), "--model", "nope")
    assert done.returncode == 1
    assert done.stderr.decode().count("NOT_FOUND") == 1


def test_news(tmp_path: Path) -> None:
    source = tmp_path / "photo.jpg"
    source.write_bytes(b"half")
    news = News()
    jobs = plan_folder([str(source)], tmp_path / "out", PNGS, False).jobs
    assert news.of(jobs) == []  # another process may still be writing it
    source.write_bytes(b"half, and the rest")
    assert news.of(jobs) == []
    assert news.of(jobs) == list(jobs)
    assert news.of(jobs) == []
    source.unlink()
    assert news.of(jobs) == []


def test_every_option_of_the_contract_can_be_said(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTO)
    options = {
        "--model": "m",
        "--keep": "cat",
        "--matte": "gaussian",
        "--blur-kernel": "9",
        "--background": "blur:3",
        "--format": "webp",
        "--quality": "70",
        "--size": "640",
        "--crop": "12",
        "--alpha": str(tmp_path / "alpha.png"),
    }
    said = [word for pair in options.items() for word in pair]
    with case_server() as address:
        place = ("--address", address)
        done = run(None, "remove", str(photo), "-o", str(tmp_path / "echo"), *said, *place)
        assert done.returncode == 0, done.stderr
        edges = run(None, "remove", str(photo), "-o", str(tmp_path / "edges.png"), "--keep-edge-colors", *place)
        alone = run(None, "remove", str(photo), "-o", str(tmp_path / "alone.png"), "--alpha-only", *place)
        assert edges.returncode == alone.returncode == 0
    echo: dict[str, Any] = json.loads((tmp_path / "echo").read_text())
    del echo["encoded"]
    assert echo == {
        "model": "m",
        "keep": ["cat"],
        "matte": {"method": "MATTE_METHOD_GAUSSIAN", "blurKernelPx": 9},
        "background": {"blur": {"sigmaPx": 3.0}},
        "output": {
            "format": "IMAGE_FORMAT_WEBP",
            "quality": 70,
            "longestSidePx": 640,
            "crop": {"marginPx": 12},
            "includeAlpha": True,
        },
    }
    assert json.loads((tmp_path / "edges.png").read_text())["matte"] == {"keepEdgeColors": True}
    assert json.loads((tmp_path / "alone.png").read_text())["output"]["alphaOnly"] is True


def test_bench_ping_and_models(server: LocalServer, photos: Path) -> None:
    figures = json.loads(run(server, "bench", str(photos / "a.jpg"), "-n", "12", "-c", "3", "--json").stdout)
    assert figures["calls"] == 12
    assert figures["p50, ms"] > figures["server: total, median ms"] > 0
    assert figures["p99, ms"] is None
    assert "photos a second" in run(server, "bench", str(photos / "a.jpg"), "-n", "4").stdout.decode()
    assert run(server, "bench", str(photos / "notes.txt")).returncode == 2
    assert run(server, "ping", "--quiet").stdout == b""
    assert run(server, "ping", "--wait", "5").returncode == 0
    away = run(None, "ping", "--wait", "0.5", "--address", "127.0.0.1:1")
    assert (away.returncode, away.stderr) == (1, b"")
    models = json.loads(run(server, "models", "--json").stdout)
    assert models["default"] == "colour"


def test_completion_and_help() -> None:
    program = str(Path(sys.executable).with_name("mattebox"))
    environment = os.environ | {"_MATTEBOX_COMPLETE": "complete_bash", "COMP_WORDS": "mattebox p", "COMP_CWORD": "1"}
    assert subprocess.run([program], env=environment, capture_output=True, check=False).stdout.split() == [b"ping"]
    for command in ("remove", "models", "ping", "bench"):
        shown = run(None, command, "--help").stdout.decode()
        assert "--address" in shown
        assert "--token-file" in shown


def test_ping_imports_no_tables() -> None:
    names = ("rich.table", "rich.progress", "numpy")
    code = f"import sys; import mattebox.cli; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
