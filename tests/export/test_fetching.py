"""Official weights: downloads that break off, wrong files, proxies, packages, folders that can't be written."""

import hashlib
import importlib.util
import resource
import shutil
import zipfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from file_server import Files, serve
from mattebox_export import download as download_module
from mattebox_export.catalogue import CATALOGUE, Source, find_entry, require_accepted
from mattebox_export.errors import ExportError
from mattebox_export.fetching import fetch

DATA = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_PAUSE_S", 0)
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 50_000)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def source(url: str, digest: str = f"sha256:{SHA256}", megabytes: float = 1.3) -> Source:
    return Source(f"{url}/folder/net.onnx", megabytes, digest)


def get(wanted: Source, folder: Path, others: Sequence[Path] = (), offline: bool = False) -> list[str]:
    """Fetches, and compares what is there then."""
    lines = list(fetch(wanted, folder, others, offline))
    assert (folder / "net.onnx").read_bytes() == DATA
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "net.onnx.lock"]
    return lines


@pytest.mark.parametrize("digest", [f"sha256:{SHA256}", f"sha256:{SHA256[:8]}", f"md5:{hashlib.md5(DATA).hexdigest()}"])
def test_a_file_is_downloaded_once(tmp_path: Path, digest: str) -> None:
    files = Files(DATA)
    with serve(files) as url:
        (line,) = get(source(url, digest), tmp_path)
        assert line == f"downloading {url}/folder/net.onnx, 1.3 MB, to {tmp_path}"
        assert get(source(url, digest), tmp_path) == [f"weights {tmp_path / 'net.onnx'}"]
    assert files.asked == [("/folder/net.onnx", None)]


def test_a_download_that_breaks_off_goes_on(tmp_path: Path) -> None:
    files = Files(DATA, breaks_after=[700_000, 150_000, 0, 0])
    with serve(files) as url:
        lines = get(source(url), tmp_path)
    assert sum("broke off" in line for line in lines) == 4
    assert [wanted for _, wanted in files.asked] == [None, *["bytes=700000-"], *["bytes=850000-"] * 3]


def test_a_part_of_an_earlier_call_is_used(tmp_path: Path) -> None:
    files = Files(DATA)
    (tmp_path / "net.onnx.part").write_bytes(DATA[:1000])
    with serve(files) as url:
        get(source(url), tmp_path)
    assert files.asked == [("/folder/net.onnx", "bytes=1000-")]


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    with serve(Files(DATA, breaks_after=[700_000], ranges=False)) as url:
        get(source(url), tmp_path)


@pytest.mark.parametrize("part", [DATA + b"more", b"of another file"], ids=["longer", "other"])
def test_a_part_of_another_file_is_not_used(tmp_path: Path, part: bytes) -> None:
    (tmp_path / "net.onnx.part").write_bytes(part)
    with serve(Files(DATA)) as url:
        if part in DATA + b"more":
            get(source(url), tmp_path)
        else:
            with pytest.raises(ExportError, match="its digest is"):
                get(source(url), tmp_path)
            get(source(url), tmp_path)  # nothing of it stayed


def test_a_break_without_a_length_is_found_by_the_digest(tmp_path: Path) -> None:
    with serve(Files(DATA, breaks_after=[700_000], length=False)) as url, pytest.raises(ExportError, match="digest"):
        get(source(url), tmp_path)
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("files", "digest", "says"),
    [
        (Files(DATA), f"sha256:{'0' * 64}", f"its digest is {SHA256}, not sha256:000"),
        (Files(DATA, status=404), f"sha256:{SHA256}", "404 Not Found"),
        (Files(DATA, status=503), f"sha256:{SHA256}", "can't be downloaded (503 Service Unavailable)"),
        (Files(DATA, breaks_after=[0] * 9), f"sha256:{SHA256}", "IncompleteRead"),
        (Files(DATA * 3), f"sha256:{SHA256}", "sends more than 1.3 MB"),
        (Files(b"<!DOCTYPE html>a captive portal"), f"sha256:{SHA256}", "is not the file that it should be"),
    ],
    ids=["digest", "missing", "busy", "breaks", "large", "html"],
)
def test_what_can_not_be_had(tmp_path: Path, files: Files, digest: str, says: str) -> None:
    with serve(files) as url, pytest.raises(ExportError) as caught:
        get(source(url, digest), tmp_path)
    assert says in str(caught.value)
    assert f"{url}/folder/net.onnx" in str(caught.value)
    assert not (tmp_path / "net.onnx").exists()


def test_no_network_names_url_and_folder(tmp_path: Path) -> None:
    wanted = source("http://127.0.0.1:1")
    with pytest.raises(ExportError) as caught:
        get(wanted, tmp_path)
    for part in (wanted.place, "Connection refused", str(tmp_path)):
        assert part in str(caught.value)
    with pytest.raises(ExportError) as caught:
        get(wanted, tmp_path, offline=True)
    for part in (wanted.place, "offline", str(tmp_path / "net.onnx"), "--weights FILE"):
        assert part in str(caught.value)


def test_offline_takes_what_is_there(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "net.onnx"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(DATA)
    lines = list(fetch(source("http://127.0.0.1:1"), tmp_path / "cache", (tmp_path / "none", elsewhere), offline=True))
    assert lines == [f"weights {elsewhere}"]
    elsewhere.write_bytes(DATA[:-1])
    with pytest.raises(ExportError, match="offline"):
        list(fetch(source("http://127.0.0.1:1"), tmp_path / "cache", (elsewhere,), offline=True))


def test_a_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(DATA)
    with serve(files) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        get(source("http://weights.invalid"), tmp_path)
    assert files.asked == [("http://weights.invalid/folder/net.onnx", None)]


def test_several_at_once_download_once(tmp_path: Path) -> None:
    files = Files(DATA)
    with serve(files) as url, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(lambda: list(fetch(source(url), tmp_path, (), offline=False))) for _ in range(4)]
        for each in waiting:
            each.result()
    assert len(files.asked) == 1


@contextmanager
def largest_file(size_bytes: int) -> Generator[None]:
    """Has the system refuse larger files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_keeps_nothing(tmp_path: Path) -> None:
    full = pytest.raises(ExportError, match=r"can't write .*\.part: File too large")
    with serve(Files(DATA)) as url, full, largest_file(100_000):
        list(fetch(source(url), tmp_path, (), offline=False))
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx.lock"]


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"can't write .*/file.*"):
        list(fetch(source("http://127.0.0.1:1"), tmp_path / "file" / "cache", (), offline=False))


def test_a_file_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip gets the wheel from a folder, as its configuration says."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "nets-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("folder/net.onnx", DATA)
        wheel.writestr("nets-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nets\nVersion: 1.0\n")
        wheel.writestr("nets-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("nets-1.0.dist-info/RECORD", "")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(wheels))):
        monkeypatch.setenv(name, value)
    wanted = Source("folder/net.onnx", 1.3, f"sha256:{SHA256}", "nets==1.0")
    first, second = get(wanted, tmp_path / "cache")
    assert first == f"downloading net.onnx of nets==1.0, 1.3 MB, to {tmp_path / 'cache'}"
    assert second == "took net.onnx from nets-1.0-py3-none-any.whl"
    with pytest.raises(ExportError, match=r"pip can't download nets==2\.0, which holds net\.onnx"):
        list(fetch(Source("net.onnx", 1.3, f"sha256:{SHA256}", "nets==2.0"), tmp_path / "other", (), offline=False))


def test_without_pip_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    monkeypatch.setattr(shutil, "which", missing)
    with pytest.raises(ExportError, match="needs pip"):
        list(fetch(Source("net.onnx", 1.3, f"sha256:{SHA256}", "nets==1.0"), tmp_path, (), offline=False))


# The catalogue.


def test_entries_are_complete() -> None:
    for name, entry in CATALOGUE.items():
        assert name == entry.name
        assert "." not in name
        assert "/" not in name
        algorithm, _, digits = entry.source.digest.partition(":")
        assert len(digits) in {"md5": (32,), "sha256": (8, 64)}[algorithm]
        assert entry.source.package is not None or entry.source.place.startswith("https://")
        assert (entry.kind == "saliency") != (entry.form == "torchvision")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("u2net_human", "u2net_human_seg"), ("birefnet", "birefnet-general"), ("U2Net", "u2net"), ("modnets", "modnet")],
)
def test_the_nearest_names_are_suggested(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no network has the name {name}; the nearest names are .*") as caught:
        find_entry(name)
    suggested = str(caught.value).rpartition("are ")[2].split(", ")
    assert len(suggested) == 3
    assert nearest in suggested


def test_a_licence_against_commercial_use_is_accepted_by_name() -> None:
    require_accepted(CATALOGUE["u2netp"], [])
    require_accepted(CATALOGUE["bria-rmbg"], ["bria-rmbg"])
    with pytest.raises(ValueError, match="forbids commercial use"):
        require_accepted(CATALOGUE["bria-rmbg"], ["u2netp"])
