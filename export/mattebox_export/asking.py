"""Runs a user's file as it is: on check photos, to see what it answers, and later to compare the artifact with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_export.catalogue import Normalisation
from mattebox_export.ends import Giving, Taking
from mattebox_export.errors import ExportError
from mattebox_export.option_values import default_short_side
from mattebox_export.parity import normalise
from mattebox_server.engine.selfcheck import synthetic_photo
from mattebox_server.spec import Resize, ShortSide

_STRIDE = 32  # of nearly all networks that don't take every size

Answer = NDArray[np.generic]
"""A network's output as it is, for two photos if it takes two."""


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what is wrong with it comes as an exception
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def ask(
    path: Path, taking: Taking, normalisation: Normalisation, output: str, resize: Resize | None
) -> tuple[Taking, Answer, tuple[str, ...]]:
    """The file's answer to check photos: what it takes (one photo, if it can't take two), the answer, and notes.

    Raises:
        ExportError: onnxruntime doesn't load the file, or doesn't run it.
    """
    try:
        session = _open(path)
    except Exception as error:  # onnxruntime's own types
        raise ExportError(f"ONNX Runtime doesn't load {path}: {_first_line(error)}") from error

    def run(batch: int, height: int, width: int) -> Answer:
        photos = np.stack([synthetic_photo(height, width, seed) for seed in range(batch)])
        return np.asarray(session.run([output], {taking.name: taking.feed(normalise(photos, normalisation))})[0])

    height, width = size_of(taking, resize)
    if taking.batch is None:
        two = _try(run, 2, height, width)
        if not isinstance(two, Exception) and two.shape[:1] == (2,):
            return taking, two, ()
    one = _try(run, 1, height, width)
    if isinstance(one, Exception):
        raise ExportError(_why_not(path, one, taking, run, (height, width))) from one
    if taking.batch == 1:
        return taking, one, ()
    return (
        replace(taking, batch=1),
        one,
        ("batch: fixed at 1, as the core doesn't run two photos at once, although its input says so",),
    )


def _try(run: Callable[[int, int, int], Answer], batch: int, height: int, width: int) -> Answer | Exception:
    try:
        return run(batch, height, width)
    except Exception as error:  # noqa: BLE001 - onnxruntime's own types; the caller says what it means
        return error


def size_of(taking: Taking, resize: Resize | None) -> tuple[int, int]:
    """Height and width of the photos that a network is asked about, in pixels."""
    if taking.height is not None and taking.width is not None:
        return taking.height, taking.width
    resize = resize or default_short_side()
    if isinstance(resize, ShortSide):
        return resize.short_side_px, resize.short_side_px * 4 // 3
    return resize.height_px, resize.width_px


def _why_not(
    path: Path,
    error: Exception,
    taking: Taking,
    run: Callable[[int, int, int], Answer],
    size: tuple[int, int],
) -> str:
    """The sentence about a file that doesn't run; many networks of free size take multiples of 32 only."""
    height, width = size
    rounded = [max(1, round(side / _STRIDE)) * _STRIDE for side in size]
    says = f"ONNX Runtime doesn't run {path} on a photo of {width}x{height}"
    if taking.height is None and rounded != [height, width] and not isinstance(_try(run, 1, *rounded), Exception):
        return (
            f"{says}, but on one of {rounded[1]}x{rounded[0]}: give it sides that are multiples of {_STRIDE},"
            " as by --resize stretch:512x512"
        )
    return f"{says}: {_first_line(error)}"


def reference_of(path: Path, taking: Taking, giving: Giving) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function that runs the unchanged file on one photo at a time; it holds no weights between two runs."""

    def run(photos: NDArray[np.float32]) -> NDArray[np.float32]:
        session = _open(path)
        answers = (session.run([giving.name], {taking.name: taking.feed(photo[np.newaxis])})[0] for photo in photos)
        return np.concatenate([giving.read(np.asarray(answer)) for answer in answers])

    return run


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
