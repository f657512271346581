"""Misbehaving callers, servers that are killed, and a long mixed load.

The functions in `STORMS` never return: each runs in a process of its own, which is killed when it is over.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grpc import aio

import mattebox
from chaos.callers import Photo, call, channel_to, photo_of, request_of
from chaos.proxy import Proxy
from chaos.watching import process_of
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.local import LocalServer

_GREEDY = 1000  # requests that the greedy caller keeps in flight
_IDLE = 500  # connections that send nothing
_STUCK = 16  # connections that stop half-way
_CANCELLING = 4  # callers; they make some eighty calls a second, 25 times what a network of 300 ms can answer
_SAMPLE_S = 1.0


def greedy(address: str, photo: Photo, seconds: float) -> None:
    """Keeps a thousand requests in flight on one connection, for this many seconds."""

    async def scenario() -> None:
        async with channel_to(address) as channel:

            async def loop() -> None:
                while True:
                    outcome = await call(channel, photo, time.monotonic())
                    await asyncio.sleep(0.5 + random.random() if outcome.status != "OK" else 0)

            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*(loop() for _ in range(_GREEDY))), seconds)

    asyncio.run(scenario())


def cancellations(address: str, photo: Photo) -> None:
    """Makes calls and cancels each after 0 to 100 ms."""

    async def scenario() -> None:
        async with channel_to(address) as channel:
            stub = pb_grpc.BackgroundRemovalServiceStub(channel)

            async def loop() -> None:
                while True:
                    running = stub.RemoveBackground(request_of(photo))
                    await asyncio.sleep(random.random() / 10)
                    running.cancel()
                    with contextlib.suppress(asyncio.CancelledError, aio.AioRpcError):
                        await running

            await asyncio.gather(*(loop() for _ in range(_CANCELLING)))

    asyncio.run(scenario())


def uploads_cut(address: str, photo: Photo) -> None:
    """Closes connections in the middle of a request."""
    _broken(address, photo, up_bytes=len(photo) // 2)


def answers_cut(address: str, photo: Photo) -> None:
    """Closes connections in the middle of an answer."""
    _broken(address, photo, down_bytes=10_000)


def slow_writers(address: str, photo: Photo) -> None:
    """Sends one half of each request and then nothing more."""
    _stuck(address, photo, up_bytes=len(photo) // 2)


def slow_readers(address: str, photo: Photo) -> None:
    """Reads the first bytes of each answer and then nothing more."""
    _stuck(address, photo, down_bytes=10_000)


def idle_connections(address: str, photo: Photo) -> None:  # noqa: ARG001
    """Opens five hundred connections and sends nothing on them."""
    host, _, port = address.rpartition(":")
    kept = [socket.create_connection((host, int(port))) for _ in range(_IDLE)]
    time.sleep(10_000)
    for connection in kept:
        connection.close()


STORMS: dict[str, Callable[[str, Photo], None]] = {
    storm.__name__.replace("_", " "): storm
    for storm in (cancellations, uploads_cut, answers_cut, slow_writers, slow_readers, idle_connections)
}


def run_storm(name: str, address: str, photo: Photo) -> None:
    """Runs one of the storms; meant for a process of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # gRPC prints a line for each broken connection
    STORMS[name](address, photo)


def _broken(address: str, photo: Photo, up_bytes: int | None = None, down_bytes: int | None = None) -> None:
    while True:
        with Proxy(address, up_bytes, down_bytes) as proxy:
            asyncio.run(_try(proxy.address, photo, 4, 0.3))


def _stuck(address: str, photo: Photo, up_bytes: int | None = None, down_bytes: int | None = None) -> None:
    with Proxy(address, up_bytes, down_bytes) as proxy:
        asyncio.run(_try(proxy.address, photo, _STUCK, 10_000))


async def _try(address: str, photo: Photo, callers: int, seconds: float) -> None:
    """Makes one call on each of several connections, and gives all of them up after this many seconds."""

    async def one() -> None:
        async with channel_to(address) as channel:
            await call(channel, photo, time.monotonic(), timeout_s=100_000)

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(callers))), seconds)


def under_restarts(model: Path, kill: bool, retries: int, seconds: float) -> Counter[str]:
    """Counts how the Python client's calls end while one of two servers is killed, or both are restarted in turn."""
    outcomes: Counter[str] = Counter()
    over = threading.Event()
    photo = photo_of(800, 600)
    flags = ["--provider", "cpu", "--threads", "1", "--drain-seconds", "0.5"]
    with ExitStack() as stack:
        one, two = (stack.enter_context(LocalServer([model], flags)) for _ in range(2))
        client = stack.enter_context(mattebox.Client([one.address, two.address], retries=retries))

        def loop() -> None:
            while not over.is_set():
                try:
                    client.remove_background(photo)
                    outcomes["OK"] += 1
                except mattebox.MatteboxError as error:
                    outcomes[error.code] += 1

        threads = [threading.Thread(target=loop) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        if kill:
            os.kill(one.pid, signal.SIGKILL)
        else:
            one.stop()
            stack.enter_context(LocalServer([model], [*flags, "--address", one.address]))
            time.sleep(seconds)
            two.stop()
        time.sleep(seconds)
        over.set()
        for thread in threads:
            thread.join()
    return outcomes


@dataclass(frozen=True)
class Soaked:
    """What a server looks like after a long mixed load.

    Args:
        requests: number of requests that were made.
        memory_slope: growth of the resident memory over the second half, in bytes a minute.
        descriptors: open file descriptors at the end, as a multiple of those at half of the time.
        threads: threads at the end, as a multiple of those at half of the time.
    """

    requests: int
    memory_slope: float
    descriptors: float
    threads: float


def soaked(server: LocalServer, seconds: float) -> Soaked:
    """Puts a mixed load on a server and samples its process over the second half; the first half is warm-up."""
    process, over = process_of(server), threading.Event()
    made: Counter[str] = Counter()
    loader = threading.Thread(target=lambda: asyncio.run(_mixed(server.address, over, made)))
    loader.start()
    samples: list[tuple[float, int, int, int]] = []
    started_s = time.monotonic()
    while (elapsed_s := time.monotonic() - started_s) < seconds:
        if elapsed_s > seconds / 2:
            samples.append((elapsed_s, process.memory_info().rss, process.num_fds(), process.num_threads()))
        time.sleep(_SAMPLE_S)
    over.set()
    loader.join()
    times, memory, descriptors, threads = (np.array(column, np.float64) for column in zip(*samples, strict=True))
    slope = float(np.polyfit(times / 60, memory, 1)[0])
    fifth = max(1, len(samples) // 5)
    grown = [float(np.median(c[-fifth:]) / np.median(c[:fifth])) for c in (descriptors, threads)]
    return Soaked(made.total(), slope, *grown)


async def _mixed(address: str, over: threading.Event, made: Counter[str]) -> None:
    """Sends photos of several sizes, broken ones, and calls with too little time, ten on each new connection."""
    photos = [photo_of(width, width * 3 // 4) for width in (320, 640, 1200, 2000)]
    chance = random.Random(0)

    async def single() -> None:
        async with channel_to(address) as channel:
            for _ in range(10):
                photo = chance.choice([*photos, b"no photo", photos[0][:500]])
                patience_s = chance.choice((60, 60, 60, 0.1))
                made[(await call(channel, photo, time.monotonic(), patience_s)).status] += 1

    async def loop(work: Callable[[], Awaitable[None]]) -> None:
        while not over.is_set():
            await work()

    await asyncio.gather(*(loop(single) for _ in range(3)))
