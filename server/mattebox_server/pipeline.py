"""One photo from bytes to bytes: decode, preprocess, infer, matte, blend, encode.

The event loop only hands things on. Pixels are touched in a bounded pool of threads (OpenCV releases the GIL), the
network runs in the engine; between two stages nobody holds a thread.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mattebox_server import codec
from mattebox_server.admission import Admission
from mattebox_server.codec import Limits
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.session import Session
from mattebox_server.errors import DeadlineExceeded
from mattebox_server.options import EncodedPhoto, ImageFormat, OutputOptions, RemovalRequest
from mattebox_server.stages import Finished, Prepared, finish, kept_classes, prepare

T = TypeVar("T")


@dataclass(frozen=True)
class Composite:
    """One answer: its parts are what the stages gave.

    Args:
        session: what ran.
        prepared: everything up to the network.
        found: what the network found.
        finished: the encoded answer.
        total_s: seconds from request to answer; what the stages don't account for is hand-over between them.
    """

    session: Session
    prepared: Prepared
    found: Inference
    finished: Finished
    total_s: float


class Pipeline:
    """All stages of one server.

    Args:
        engine: the networks.
        admission: what may be in flight.
        limits: what one image may cost.
        threads: how many photos are decoded, blended or encoded at once.
    """

    def __init__(self, engine: Engine, admission: Admission, limits: Limits, threads: int) -> None:
        self.engine = engine
        self.limits = limits
        self._admission = admission
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pixels")

    async def remove_background(self, request: RemovalRequest, deadline_s: float | None = None) -> Composite:
        """Answers one request.

        Args:
            request: checked already, but for what only the model and the image headers tell.
            deadline_s: on the clock of `time.monotonic`; None means never. No stage starts after it.

        Raises:
            MatteboxError: any of them.
        """
        started_s = time.monotonic()
        session = self.engine.session(request.model)
        spec = session.spec
        kept = kept_classes(spec, request.keep)
        with self._admission.enter() as permit:
            prepared = await self._in_pool(deadline_s, lambda: prepare(request, spec, self.limits, permit))
            found = await self.engine.infer(spec.name, prepared.model_input.image, kept, deadline_s)
            finished = await self._in_pool(deadline_s, lambda: finish(request, spec, kept, prepared, found))
        return Composite(session, prepared, found, finished, time.monotonic() - started_s)

    async def warm_up(self) -> None:
        """Takes a small photo through the stages around the network, so that no caller waits for libraries to load."""
        spec = self.engine.session("").spec
        size, much = (64, 64, 3), 1_000_000
        limits, admission = Limits(much, much), Admission(1, much)  # not the callers', which may be lower

        def stages() -> None:
            photo = EncodedPhoto(codec.encode(np.zeros(size, np.uint8), ImageFormat.JPEG, 90))
            with admission.enter() as permit:
                for answer in (ImageFormat.PNG, ImageFormat.JPEG):
                    request = RemovalRequest(photo, output=OutputOptions(format=answer))
                    prepared = prepare(request, spec, limits, permit)
                    nothing = np.zeros(prepared.model_input.image.shape[:2], np.uint8)
                    finish(request, spec, frozenset(), prepared, Inference(nothing, nothing, 1, 0, 0))

        await self._in_pool(None, stages)

    def close(self) -> None:
        """Ends the pool; stages that wait are dropped, those that run are waited for."""
        self._pool.shutdown(cancel_futures=True)

    async def _in_pool(self, deadline_s: float | None, stage: Callable[[], T]) -> T:
        def run() -> T:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise DeadlineExceeded("the deadline passed between two stages")
            return stage()

        return await asyncio.get_running_loop().run_in_executor(self._pool, run)
