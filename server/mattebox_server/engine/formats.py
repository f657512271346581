"""What a file is that was given as a network and is no ONNX file: told by its first bytes."""

from pathlib import Path

START_BYTES = 4096  # enough for the names of a checkpoint's first members, and for a page's first tag

_ONNX_ADVICE = "export the network to ONNX (torch.onnx.export)"
_TFLITE = "a TensorFlow Lite network: convert it to ONNX (tflite2onnx or tf2onnx)"
_KERAS = "a Keras network: convert it to ONNX (tf2onnx)"
_TORCH = f"a PyTorch checkpoint, which holds weights without the network: {_ONNX_ADVICE}"

# The place of a mark in a file, the mark, and what it says.
_MARKS = (
    (0, b"\x89HDF\r\n\x1a\n", _KERAS),
    (4, b"TFL3", _TFLITE),
    (4, b"ORTM", "a network in ONNX Runtime's own format: take the .onnx file that it was made of"),
    (0, b"ftrt", "an engine of TensorRT, which runs on one kind of GPU: take the .onnx file that it was made of"),
    (0, b"version https://git-lfs", "a pointer of Git LFS instead of the file that it stands for: fetch that"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", _TORCH),  # checkpoints of torch before 1.6
    (0, b"\x93NUMPY", f"an array of NumPy: {_ONNX_ADVICE}"),
    (0, b"\x1f\x8b", "compressed by gzip: unpack it"),
    (257, b"ustar", "a tar archive: unpack it, and name the ONNX file in it"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"%PDF", "a PDF document"),
)
_ZIP, _PICKLES = b"PK\x03\x04", tuple(bytes((128, protocol)) for protocol in range(2, 6))


def foreign_format(path: Path) -> str | None:
    """Says what a file is, and what to do with it.

    Returns:
        What can follow "it is"; None if the file may be ONNX.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if not start:
        return "empty: fetch or export it again"
    for place, mark, means in _MARKS:
        if start[place : place + len(mark)] == mark:
            return means
    if start.startswith(_ZIP):
        return _zip(start)
    if start.startswith(_PICKLES):
        return f"a pickle of Python: {_ONNX_ADVICE}"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return f"a safetensors file, which holds weights without the network: {_ONNX_ADVICE}"
    return _text(start)


def _zip(start: bytes) -> str:
    if b"data.pkl" in start or b"constants.pkl" in start or b".format_version" in start:
        return _TORCH
    if b"config.json" in start and b"metadata.json" in start:
        return _KERAS
    return "a zip archive: unpack it, and name the ONNX file in it"


def _text(start: bytes) -> str | None:
    beginning = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if beginning.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page: its address needs another form, or a login, to give the file itself"
    if beginning.startswith(b"<?xml"):
        if b"<net " in start:
            return "a network in OpenVINO's own format: take the .onnx file that it was made of"
        return "an XML document: the place that it came from answered with an error"
    if beginning.startswith((b"{", b"[")):
        return "a JSON document: the place that it came from answered with an error, or it is no network"
    return None
