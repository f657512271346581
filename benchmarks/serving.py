"""Two parts of `make bench-engine`: how fast the server starts, and what it adds to its own pipeline."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from statistics import median

import cv2
from chaos.callers import photo_of

import mattebox
from mattebox_server.admission.admission import Admission
from mattebox_server.admission.lane import Origin, QueueLimits
from mattebox_server.engine.config import EngineConfig
from mattebox_server.engine.loading import load_engine
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.local import LocalServer
from mattebox_server.records import Timeline
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.request import EncodedPhoto, ImageFormat, OutputOptions, RemovalRequest

_CONCURRENCY, _REQUESTS = 8, 24
_STARTS = 3
_OUTPUT = OutputOptions(format=ImageFormat.JPEG)


def measure_starts(model: Path, threads: int) -> dict[str, float]:
    """Measures what the cache of compiled models wins; `make bench` measures the seconds of a start.

    Returns:
        Time until the server is SERVING with a filled cache as a share of that with an empty one, and the duration of
        the first request as a multiple of the median of the next five.
    """
    cold: list[float] = []
    warm: list[float] = []
    first: list[float] = []
    for _ in range(_STARTS):
        with tempfile.TemporaryDirectory() as cache:
            flags = ["--threads", str(threads), "--cache-dir", cache]
            for starts in (cold, warm):
                started_s = time.perf_counter()
                with LocalServer([model], flags) as server:
                    starts.append(time.perf_counter() - started_s)
                    with mattebox.Client(server.address) as client:
                        times = [_seconds(lambda: client.remove_background(_photo())) for _ in range(6)]
                    first.append(times[0] / median(times[1:]))
    return {
        "warm_to_cold": round(median(w / c for w, c in zip(warm, cold, strict=True)), 3),
        "first_request_to_median": round(median(first), 3),
    }


def measure_serving(model: Path, threads: int, rounds: int) -> dict[str, float]:
    """Compares the server with the same pipeline in this process: latency of one call, throughput of eight callers."""
    cv2.setNumThreads(1)
    engine = load_engine([model], EngineConfig(threads=threads))
    models = tuple(network.spec.name for network in engine.networks)
    admission = Admission(models, QueueLimits(64, 64, 60), 2**40)
    pipeline = Pipeline(engine, admission, PhotoLimits(10**9, 10**9), threads)
    flags = ["--threads", str(threads)]
    latencies: list[float] = []
    throughputs: list[float] = []
    with LocalServer([model], flags) as server, mattebox.Client(server.address) as client, asyncio.Runner() as runner:

        def in_process(count: int) -> float:
            return _seconds(lambda: runner.run(_many(pipeline, count)))

        def served(count: int) -> float:
            with ThreadPoolExecutor(_CONCURRENCY) as pool:
                return _seconds(lambda: list(pool.map(_remove, [client] * count)))

        in_process(2)
        served(2)
        for _ in range(rounds):
            latencies.append(served(1) / in_process(1))
        for _ in range(max(3, rounds // 3)):
            throughputs.append(in_process(_REQUESTS) / served(_REQUESTS))
    pipeline.close()
    engine.close()
    return {
        "latency_server_to_in_process": round(median(latencies), 3),
        "throughput_server_to_in_process": round(median(throughputs), 3),
    }


async def _many(pipeline: Pipeline, count: int) -> None:
    """Sends this many photos through the pipeline, eight at a time."""
    places = asyncio.Semaphore(_CONCURRENCY)

    async def one() -> None:
        request = RemovalRequest(EncodedPhoto(_photo()), output=_OUTPUT)
        async with places:
            with pipeline.admission.entry(Origin()) as entry:
                await pipeline.remove_background(request, entry, Timeline())

    await asyncio.gather(*(one() for _ in range(count)))


def _remove(client: mattebox.Client) -> object:
    return client.remove_background(_photo(), output=mattebox.Output(format="jpeg"))


@cache
def _photo() -> bytes:
    """Returns a photo of 0.26 megapixels as a JPEG file."""
    return photo_of(512, 512)


def _seconds(run: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s
