"""One run of a network on a batch of photos. The shapes of its answer are checked, and its errors are told apart."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mattebox_server.engine.session import Session, Stop
from mattebox_server.errors import InferenceFailed, OutOfMemory
from mattebox_server.imaging.pixels import Pixels

# The words of onnxruntime's arenas, CUDA, cuBLAS and cuDNN, TensorRT, OpenVINO and C++, in lower case. onnxruntime
# raises the same exceptions for everything that goes wrong, so that only the words tell a lack of memory from the rest.
_OUT_OF_MEMORY = (
    "failed to allocate memory",
    "bytes of memory",  # which OpenVINO failed to allocate
    "could not allocate memory",
    "is smaller than requested bytes",  # an arena at its own limit
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "alloc_failed",
    "bad_alloc",
    "cannot allocate memory",
)


@dataclass(frozen=True)
class Inference:
    """What the network found in one photo, and how long that took.

    Args:
        foreground: uint8 (h, w), round(255 x probability of the subject).
        classes: uint8 (h, w), index of the likeliest class; None from a saliency network.
        batch_size: number of photos that shared the run.
        queue_s: seconds from the photo's arrival in the queue to the start of the run.
        infer_s: seconds of the run.
    """

    foreground: Pixels
    classes: Pixels | None
    batch_size: int
    queue_s: float
    infer_s: float


class Abandoned(Exception):
    """The run was stopped, or not started, because nobody waited for its answer any longer."""


def run_session(
    session: Session, images: Sequence[Pixels], kept: Sequence[frozenset[int]], stop: Stop | None = None
) -> list[Inference]:
    """Runs photos as one batch on the calling thread, and checks the shapes of the answer.

    Args:
        session: the network's session.
        images: photos uint8 (h, w, 3) BGR, all of one shape.
        kept: for each photo, the indices of the classes that are the subject.
        stop: ends the run early.

    Returns:
        One inference for each photo, in the same order.

    Raises:
        Abandoned: the run failed after `stop` was asked for.
        OutOfMemory: the device has no room for so many photos.
        InferenceFailed: the network failed, or gave arrays of the wrong shape.
    """
    started_s = time.monotonic()
    try:
        batch = np.stack(images) if len(images) > 1 else images[0][np.newaxis]
        maps = session.run(batch, _keep(session, kept), stop)
        for output in (maps.foreground, maps.classes):
            if output is not None and output.shape != batch.shape[:3]:
                raise ValueError(f"it gave {output.shape} for {batch.shape}")
    except BaseException as error:  # whatever a provider raises, the request fails and the server goes on
        if stop is not None and stop.asked:
            raise Abandoned from error
        kind = OutOfMemory if is_out_of_memory(error) else InferenceFailed
        raise kind(f"{session.spec.name} on {session.provider} failed: {error}") from error
    infer_s = time.monotonic() - started_s
    foregrounds = _rows(maps.foreground)
    classes = [None] * len(images) if maps.classes is None else _rows(maps.classes)
    return [Inference(*found, len(images), 0.0, infer_s) for found in zip(foregrounds, classes, strict=True)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host or the device has no memory left."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in words for sign in _OUT_OF_MEMORY)


def _keep(session: Session, kept: Sequence[frozenset[int]]) -> NDArray[np.float32] | None:
    if session.spec.kind == "saliency":
        return None
    keep = np.zeros((len(kept), len(session.spec.labels)), np.float32)
    for row, indices in zip(keep, kept, strict=True):
        row[sorted(indices)] = 1
    return keep


def _rows(output: Pixels) -> Sequence[Pixels]:
    # Copies, because with a view each caller would hold, and could see, the answers to all others.
    return [row.copy() if len(output) > 1 else row for row in output]
