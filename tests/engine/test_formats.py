"""Files that are given as a network and are something else: each is named, by the server and by the exporter."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import networks
from conftest import run_export
from mattebox_export.errors import ExportError
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.formats import foreign_format
from mattebox_server.errors import StartupError


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("network.onnx"), io.BytesIO())
    return file.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "is empty"),
    "torch": (lambda: zipped(archive__data_dot_pkl=b"\x80\x02}."), "PyTorch checkpoint"),
    "old-torch": (lambda: pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "PyTorch checkpoint"),
    "pickle": (lambda: pickle.dumps({"weights": [1.0]}), "pickle of Python"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
    "h5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(40), "Keras"),
    "keras": (lambda: zipped(metadata_dot_json=b"{}", config_dot_json=b"{}"), "Keras"),
    "zip": (lambda: zipped(network_dot_onnx=b"x"), "zip archive: unpack it"),
    "gzip": (lambda: gzip.compress(b"x"), "gzip"),
    "tar": (tarred, "tar archive"),
    "safetensors": (lambda: struct.pack("<Q", 2) + b"{}", "safetensors"),
    "html": (lambda: b"\n<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
    "html-bom": (lambda: b"\xef\xbb\xbf<HTML>", "web page"),
    "error": (lambda: b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML document"),
    "openvino": (lambda: b'<?xml version="1.0"?>\n<net name="Model0" version="11">', "OpenVINO's own format"),
    "json": (lambda: b'{"message": "Not Found"}', "JSON document"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "ort": (lambda: b"\x18\0\0\0ORTM" + bytes(40), "ONNX Runtime's own format"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"),
}


@pytest.mark.parametrize(("make", "says"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_network_is_named(tmp_path: Path, make: Callable[[], bytes], says: str) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(make())
    with pytest.raises(StartupError, match=says) as refused:
        read_artifact(file)
    with pytest.raises(ExportError, match=says) as unexported:
        run_export("custom", "--core", file)
    for error in (refused, unexported):
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_checkpoint_that_torch_wrote(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for name, new in (("new", True), ("old", False)):
        torch.save({"weight": torch.zeros(3)}, tmp_path / name, _use_new_zipfile_serialization=new)
        assert "PyTorch checkpoint" in (foreign_format(tmp_path / name) or "")


def test_onnx_is_not_foreign(tmp_path: Path, colour_model: Path) -> None:
    assert foreign_format(networks.save_colour_core(tmp_path / "core.onnx")) is None
    assert foreign_format(colour_model) is None


def test_any_four_bytes_are_something(tmp_path: Path) -> None:
    """Short and random files are named or left to the reader of ONNX; nothing else is raised."""
    for first in range(256):
        (tmp_path / "short").write_bytes(bytes((first, 0, 1)))
        foreign_format(tmp_path / "short")
