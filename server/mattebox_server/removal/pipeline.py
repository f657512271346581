"""One photo from bytes to bytes: decode, preprocess, infer, matte, blend, encode.

The event loop only hands things on. Pixels are touched in a bounded pool of threads (OpenCV releases the GIL), the
network runs in the engine; between two stages nobody holds a thread.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from mattebox_server.admission.admission import Admission, Origin
from mattebox_server.admission.budget import Budget
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.network import Network
from mattebox_server.errors import DeadlineExceeded
from mattebox_server.imaging import codec
from mattebox_server.imaging.codec import Limits
from mattebox_server.records import Stage
from mattebox_server.removal.stages import Finished, Prepared, finish, kept_classes, prepare
from mattebox_server.request import EncodedPhoto, ImageFormat, OutputOptions, RemovalRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Composite:
    """One answer: its parts are what the stages gave.

    Args:
        network: what ran.
        prepared: everything up to the network.
        found: what the network found.
        finished: the encoded answer.
        stages: where the time went, in the order of time.
        total_s: seconds from request to answer; what the stages don't account for is hand-over between them.
    """

    network: Network
    prepared: Prepared
    found: Inference
    finished: Finished
    stages: tuple[Stage, ...]
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
        self.admission = admission
        self.limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pixels")

    async def remove_background(self, request: RemovalRequest, origin: Origin | None = None) -> Composite:
        """Answers one request.

        Args:
            request: checked already, but for what only the model and the image headers tell.
            origin: who asks, and by when. No stage starts from which the deadline can't be met.

        Raises:
            MatteboxError: any of them.
        """
        started_s = time.monotonic()
        origin = origin or Origin()
        network = self.engine.network(request.model)
        spec = network.spec
        kept = kept_classes(spec, request.keep)
        async with self.admission.enter(spec.name, origin) as (turn, pixels):
            pace, deadline_s = turn.pace, origin.deadline_s
            wait = Stage("wait", started_s, time.monotonic() - started_s)
            network.require_serving()  # it may have failed meanwhile
            begun_s = time.monotonic()
            until_s = turn.before(deadline_s, pace.whole_s)
            prepared = await self._in_pool(until_s, lambda: prepare(request, spec, self.limits, pixels))
            prepared_s = time.monotonic()
            turn.record(pace.prepare_s, prepared_s - begun_s)
            until_s = turn.before(deadline_s, pace.after_prepare_s)
            ran = partial(turn.record, pace.infer_s)
            found = await self.engine.infer(network, prepared.model_input.image, kept, until_s, ran)
            inferred_s = time.monotonic()
            until_s = turn.before(deadline_s, pace.after_infer_s)
            finished = await self._in_pool(until_s, lambda: finish(request, spec, kept, prepared, found))
            finished_s = time.monotonic()
            turn.record(pace.finish_s, finished_s - inferred_s)
        stages = (wait, *_stages(prepared, prepared_s, found, finished))
        return Composite(network, prepared, found, finished, stages, finished_s - started_s)

    async def warm_up(self) -> None:
        """Takes a small photo through the stages around the network, so that no caller waits for libraries to load."""
        spec = self.engine.networks[0].spec
        size, much = (64, 64, 3), 1_000_000
        limits, pixels = Limits(much, much), Budget("pixels", much)  # not the callers', which may be lower

        def stages() -> None:
            photo = EncodedPhoto(codec.encode(np.zeros(size, np.uint8), ImageFormat.JPEG, 90))
            with pixels.share() as share:
                for answer in (ImageFormat.PNG, ImageFormat.JPEG):
                    request = RemovalRequest(photo, output=OutputOptions(format=answer))
                    prepared = prepare(request, spec, limits, share)
                    nothing = np.zeros(prepared.model_input.image.shape[:2], np.uint8)
                    finish(request, spec, frozenset(), prepared, Inference(nothing, nothing, 1, 0, 0))

        await self._in_pool(None, stages)

    def close(self) -> None:
        """Ends the pool; stages that wait are dropped, those that run are waited for."""
        self._pool.shutdown(cancel_futures=True)

    async def _in_pool(self, deadline_s: float | None, stage: Callable[[], T]) -> T:
        def run() -> T:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise DeadlineExceeded("the deadline can't be met any more after a stage")
            return stage()

        return await asyncio.get_running_loop().run_in_executor(self._pool, run)


def _stages(prepared: Prepared, prepared_s: float, found: Inference, finished: Finished) -> tuple[Stage, ...]:
    decoded_s, matted_s = prepared.started_s + prepared.decode_s, finished.started_s + finished.matte_s
    return (
        Stage("decode", prepared.started_s, prepared.decode_s),
        Stage("preprocess", decoded_s, prepared.preprocess_s),
        Stage("queue", prepared_s, found.queue_s),
        Stage("infer", prepared_s + found.queue_s, found.infer_s),
        Stage("matte", finished.started_s, finished.matte_s),
        Stage("encode", matted_s, finished.encode_s),
    )
