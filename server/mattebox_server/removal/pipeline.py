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

from mattebox_server.admission.admission import Admission, Entry
from mattebox_server.admission.budget import Budget
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.network import Network
from mattebox_server.errors import DeadlineExceeded
from mattebox_server.imaging import codec
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.records import Stage, Timeline
from mattebox_server.removal.stages import Composite, Found, finish, kept_classes, prepare
from mattebox_server.request import EncodedPhoto, ImageFormat, OutputOptions, RemovalRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What one request gets.

    Args:
        composite: the encoded answer.
        network: the network that ran.
        batch_size: the number of photos that shared the run.
    """

    composite: Composite
    network: Network
    batch_size: int


class Pipeline:
    """All stages of one server.

    Args:
        engine: the networks.
        admission: the order in which requests are worked on.
        limits: what one image may cost.
        threads: the number of photos that are decoded, blended or encoded at once.
    """

    def __init__(self, engine: Engine, admission: Admission, limits: PhotoLimits, threads: int) -> None:
        self.engine = engine
        self.admission = admission
        self.limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pixels")

    async def remove_background(self, request: RemovalRequest, entry: Entry, times: Timeline) -> Answer:
        """Answers one request. No stage starts from which the deadline can't be met.

        Args:
            request: checked already, but for what only the model and the image headers tell.
            entry: the leave to come in, which `Admission.entry` gives.
            times: gets the stages.

        Raises:
            MatteboxError: the request gets no answer; any error of the tree in `errors`.
        """
        network = self.engine.network(request.model)
        spec, loop = network.spec, asyncio.get_running_loop()
        kept = kept_classes(spec, request.keep)
        arrived_s = time.monotonic()
        async with self.admission.turn(spec.name, entry) as turn:
            times.append(Stage("wait", arrived_s, time.monotonic() - arrived_s))
            network.require_serving()  # it may have failed while the request waited

            prepared = await self._in_pool(
                turn.latest_start_s("prepare"), lambda: prepare(request, spec, self.limits, entry.memory, times)
            )
            turn.learn("prepare", times.seconds("decode", "preprocess"))

            def ran(seconds: float) -> None:  # on the engine's thread, even if the caller has gone by then
                loop.call_soon_threadsafe(turn.learn, "infer", seconds)

            image, queued_s = prepared.model_input.image, time.monotonic()
            inference = await self.engine.infer(network, image, kept, turn.latest_start_s("infer"), ran)
            times.append(Stage("queue", queued_s, inference.queue_s))
            times.append(Stage("infer", queued_s + inference.queue_s, inference.infer_s))

            found = Found(spec, kept, inference)
            composite = await self._in_pool(
                turn.latest_start_s("finish"), lambda: finish(request, prepared, found, times)
            )
            turn.learn("finish", times.seconds("matte", "encode"))
        return Answer(composite, network, inference.batch_size)

    async def warm_up(self) -> None:
        """Takes a small photo through the stages around the network, so that no caller waits for libraries to load."""
        spec = self.engine.networks[0].spec
        size, much = (64, 64, 3), 2**30
        limits, memory = PhotoLimits(much, much), Budget(much)  # not the callers', which may be lower

        def stages() -> None:
            photo = EncodedPhoto(codec.encode(np.zeros(size, np.uint8), ImageFormat.JPEG, 90))
            with memory.share() as share:
                for answer in (ImageFormat.PNG, ImageFormat.JPEG):
                    request = RemovalRequest(photo, output=OutputOptions(format=answer))
                    prepared = prepare(request, spec, limits, share, Timeline())
                    nothing = np.zeros(prepared.model_input.image.shape[:2], np.uint8)
                    found = Found(spec, frozenset(), Inference(nothing, nothing, 1, 0, 0))
                    finish(request, prepared, found, Timeline())

        await self._in_pool(None, stages)

    def close(self) -> None:
        """Ends the pool; stages that wait are dropped, those that run are waited for."""
        self._pool.shutdown(cancel_futures=True)

    async def _in_pool(self, latest_start_s: float | None, stage: Callable[[], T]) -> T:
        """Runs a stage on a thread of the pool.

        A caller that goes away is gone from the queue at once; a stage that runs already is waited for, because its
        thread and what it holds are not free before.
        """

        def run() -> T:
            if latest_start_s is not None and time.monotonic() >= latest_start_s:
                raise DeadlineExceeded("the deadline can't be met any more after a stage")
            return stage()

        running = self._pool.submit(run)
        try:
            return await asyncio.wrap_future(running)  # a cancellation takes it out of the queue
        except asyncio.CancelledError:
            if not running.cancel():
                ended, loop = asyncio.Event(), asyncio.get_running_loop()
                running.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
                await ended.wait()
            raise
