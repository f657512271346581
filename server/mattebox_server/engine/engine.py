"""Takes photos at the models' size, gives what the networks found: the one place that knows what runs where, and when.

Each session has one worker thread, so a network never runs twice at once and every run has the engine's threads to
itself. A batcher takes the place of `_Worker` without a change outside of this module.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mattebox_server.engine.session import Maps, Session
from mattebox_server.errors import DeadlineExceeded, InferenceFailed, UnknownModel
from mattebox_server.pixels import Pixels
from mattebox_server.preprocess import content_size
from mattebox_server.spec import Letterbox


@dataclass(frozen=True)
class Inference:
    """What the network found in one photo, and what that took.

    Args:
        foreground: uint8 (h, w), round(255 x probability of the subject).
        classes: uint8 (h, w), index of the likeliest class; None from a saliency network.
        batch_size: photos that shared the run.
        queue_s: seconds from the call to the start of the run.
        infer_s: seconds of the run.
    """

    foreground: Pixels
    classes: Pixels | None
    batch_size: int
    queue_s: float
    infer_s: float


class Engine:
    """The networks of one server. The first is the default."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        if not sessions:
            raise ValueError("an engine needs a session")
        self._workers = {session.spec.name: _Worker(session) for session in sessions}
        if len(self._workers) != len(sessions):
            raise ValueError("two sessions have the same name")

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All networks, the default first."""
        return tuple(worker.session for worker in self._workers.values())

    def session(self, name: str) -> Session:
        """The network of that name; "" is the default. Raises UnknownModel."""
        return self._worker(name).session

    async def infer(self, name: str, image: Pixels, kept: frozenset[int], deadline_s: float | None) -> Inference:
        """Runs a network on one photo.

        Args:
            name: of the network; "" is the default.
            image: uint8 (h, w, 3) BGR at the network's size.
            kept: indices of the classes that are the subject; saliency networks have no use for it.
            deadline_s: on the clock of `time.monotonic`; None means never.

        Raises:
            UnknownModel: there is no such network.
            DeadlineExceeded: the deadline passed before the run could start; nothing was run.
            InferenceFailed: the network failed.
        """
        return await self._worker(name).submit(image, kept, deadline_s)

    def warm_up(self) -> None:
        """Runs each network once at the size of a 3:2 photo. Raises InferenceFailed."""
        for worker in self._workers.values():
            worker.warm_up()

    def close(self) -> None:
        """Ends the workers; runs that wait are dropped, the one that runs is waited for."""
        for worker in self._workers.values():
            worker.close()

    def _worker(self, name: str) -> "_Worker":
        if not name:
            return next(iter(self._workers.values()))
        if name not in self._workers:
            raise UnknownModel(name, tuple(self._workers))
        return self._workers[name]


class _Worker:
    """One session and the thread that owns it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{session.spec.name}")

    async def submit(self, image: Pixels, kept: frozenset[int], deadline_s: float | None) -> Inference:
        loop = asyncio.get_running_loop()
        queued_s = time.monotonic()
        # A caller that is cancelled while it waits takes its place in the queue with it.
        return await loop.run_in_executor(self._thread, self._run, image, kept, deadline_s, queued_s)

    def _run(self, image: Pixels, kept: frozenset[int], deadline_s: float | None, queued_s: float) -> Inference:
        started_s = time.monotonic()
        if deadline_s is not None and started_s >= deadline_s:
            raise DeadlineExceeded("the deadline passed in the engine's queue")
        maps = self._infer(image[np.newaxis], kept)
        ended_s = time.monotonic()
        classes = None if maps.classes is None else maps.classes[0]
        return Inference(maps.foreground[0], classes, 1, started_s - queued_s, ended_s - started_s)

    def _infer(self, images: Pixels, kept: frozenset[int]) -> Maps:
        try:
            maps = self.session.run(images, self._keep(len(images), kept))
        except Exception as error:  # whatever a provider raises, the request fails and the server goes on
            raise InferenceFailed(f"{self.session.spec.name} on {self.session.provider} failed: {error}") from error
        if maps.foreground.shape != images.shape[:3]:
            raise InferenceFailed(f"{self.session.spec.name} gave {maps.foreground.shape} for {images.shape}")
        return maps

    def _keep(self, batch: int, kept: frozenset[int]) -> NDArray[np.float32] | None:
        if self.session.spec.kind == "saliency":
            return None
        keep = np.zeros((batch, len(self.session.spec.labels)), np.float32)
        keep[:, sorted(kept)] = 1
        return keep

    def warm_up(self) -> None:
        policy = self.session.spec.resize
        width, height = (
            (policy.width_px, policy.height_px) if isinstance(policy, Letterbox) else content_size(600, 400, policy)
        )
        self._thread.submit(self._infer, np.zeros((1, height, width, 3), np.uint8), frozenset()).result()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
