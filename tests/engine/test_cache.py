"""The cache of compiled models: entries are found again, checked, and whole, even with several servers at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mattebox_server.engine.cache import CacheEntry

FACTS = {"artifact": "a" * 64, "device": "Xeon"}


def cold(root: Path, facts: dict[str, str] | None = None, data: bytes = b"compiled") -> CacheEntry:
    entry = CacheEntry(root, "openvino", facts or FACTS)
    assert not entry.is_warm
    (entry.folder / "sub").mkdir()
    (entry.folder / "sub" / "model.blob").write_bytes(data)
    return entry


def warm(root: Path, facts: dict[str, str] | None = None) -> CacheEntry:
    entry = CacheEntry(root, "openvino", facts or FACTS)
    assert entry.is_warm
    return entry


def only_entry(root: Path) -> Path:
    (folder,) = [path for path in root.iterdir() if not path.name.startswith(".")]
    return folder


def test_what_was_published_is_found_again(tmp_path: Path) -> None:
    assert cold(tmp_path / "deep" / "cache").publish()
    entry = warm(tmp_path / "deep" / "cache")
    assert (entry.folder / "sub" / "model.blob").read_bytes() == b"compiled"
    entry.discard()  # changes nothing in a warm entry
    assert not entry.publish()
    warm(tmp_path / "deep" / "cache")


def test_other_facts_other_entry(tmp_path: Path) -> None:
    cold(tmp_path).publish()
    cold(tmp_path, FACTS | {"device": "EPYC"}).publish()
    warm(tmp_path)
    warm(tmp_path, FACTS | {"device": "EPYC"})


def test_what_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    cold(tmp_path).discard()
    assert list(tmp_path.iterdir()) == []
    nothing = CacheEntry(tmp_path, "openvino", FACTS)
    assert not nothing.publish()  # the provider wrote nothing
    assert list(tmp_path.iterdir()) == []


def append(path: Path) -> None:
    with (path / "sub" / "model.blob").open("ab") as file:
        file.write(b"!")


def flip(path: Path) -> None:
    (path / "sub" / "model.blob").write_bytes(b"compilee")


def remove(path: Path) -> None:
    (path / "sub" / "model.blob").unlink()


def add(path: Path) -> None:
    (path / "more.blob").write_bytes(b"x")


def manifest(data: bytes | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "manifest.json").unlink()
        if data is not None:
            (path / "manifest.json").write_bytes(data)

    return change


HARM: dict[str, Callable[[Path], None]] = {
    "longer": append,
    "other": flip,
    "missing": remove,
    "more": add,
    "no manifest": manifest(None),
    "half a manifest": manifest(b"{"),
    "a list": manifest(b"[1]"),
    "binary": manifest(b"\xff\xfe"),
    "foreign": manifest(b'{"facts": {"device": "else"}, "files": {}}'),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_has_changed_is_built_anew(tmp_path: Path, harm: str) -> None:
    cold(tmp_path).publish()
    HARM[harm](only_entry(tmp_path))
    assert cold(tmp_path, data=b"anew").publish()
    assert (warm(tmp_path).folder / "sub" / "model.blob").read_bytes() == b"anew"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_entry_is_not_trusted(tmp_path: Path) -> None:
    cold(tmp_path).publish()
    os.chown(only_entry(tmp_path), 12345, 12345)
    assert cold(tmp_path).publish()


def test_a_link_is_not_trusted(tmp_path: Path) -> None:
    cold(tmp_path / "theirs").publish()
    (tmp_path / "ours").mkdir()
    theirs = only_entry(tmp_path / "theirs")
    (tmp_path / "ours" / theirs.name).symlink_to(theirs)
    assert not CacheEntry(tmp_path / "ours", "openvino", FACTS).is_warm


def test_rejected_by_the_provider(tmp_path: Path) -> None:
    cold(tmp_path).publish()
    entry = warm(tmp_path)
    entry.reject("a test")
    assert not entry.is_warm
    (entry.folder / "model.blob").write_bytes(b"anew")
    assert entry.publish()
    assert (warm(tmp_path).folder / "model.blob").read_bytes() == b"anew"


def test_many_at_once(tmp_path: Path) -> None:
    """The first server's entry is kept and is whole; the others go on without an error."""
    start = threading.Barrier(8)
    won: list[bool] = []

    def serve(number: int) -> None:
        entry = CacheEntry(tmp_path, "openvino", FACTS)
        start.wait()
        (entry.folder / "model.blob").write_bytes(str(number).encode() * 100_000)
        won.append(entry.publish())
        entry.discard()

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won.count(True) == 1
    blob = (warm(tmp_path).folder / "model.blob").read_bytes()
    assert len(blob) == 100_000
    assert len(set(blob)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [only_entry(tmp_path).name]


def test_what_killed_servers_left_is_removed(tmp_path: Path) -> None:
    young, old = cold(tmp_path).folder, cold(tmp_path).folder
    os.utime(old, (0, 0))
    assert cold(tmp_path).publish()
    assert young.exists()
    assert not old.exists()


def test_a_full_disk_costs_the_entry_not_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = cold(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert not entry.publish()
    assert list(tmp_path.iterdir()) == []
