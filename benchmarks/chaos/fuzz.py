"""Thousands of broken photos and requests, against the codec and a server."""

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from grpc import aio

from chaos.callers import channel_to
from chaos.mutations import mutated, photos, requests
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.errors import InvalidRequest
from mattebox_server.imaging import codec, headers
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.local import LocalServer

EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
_LIMITS = PhotoLimits(32 * 2**20, 4_000_000)
_AT_ONCE = 4
_FLAGS = ["--provider", "cpu", "--max-photo-pixels", "4000000"]


@dataclass(frozen=True)
class Found:
    """What the broken photos and requests did.

    Args:
        photos: number of photos that the codec decoded or refused.
        requests: number of requests that the server answered or refused.
        strange: number of answers with another status than a bad request may have.
        slowest_s: seconds of the slowest answer or decode.
        memory: resident memory after all requests, as a multiple of that after the first tenth.
        died: 1 if the server's process ended, else 0.
    """

    photos: int
    requests: int
    strange: int
    slowest_s: float
    memory: float
    died: int


def run(model: Path, count: int) -> Found:
    """Sends this many photos through the codec, and half as many requests to a server."""
    seeds = photos()
    with multiprocessing.get_context("spawn").Pool(1, _be_quiet) as pool:
        slowest_s = pool.apply(_decode_all, (count,))
    with LocalServer([model], _FLAGS) as server:
        process = psutil.Process(server.pid)
        asked = count // 2
        messages = requests(seeds, asked, seed=12)
        tenth = [next(messages) for _ in range(asked // 10)]
        outcomes, first_s = asyncio.run(_ask_all(server.address, iter(tenth)))
        before = process.memory_info().rss
        more, second_s = asyncio.run(_ask_all(server.address, messages))
        outcomes += more
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        memory = process.memory_info().rss / before if alive else 0.0
    strange = sum(number for status, number in outcomes.items() if status not in EXPECTED)
    return Found(count, asked, strange, max(slowest_s, first_s, second_s), memory, int(not alive))


def _be_quiet() -> None:
    """Closes standard error, to which the image libraries print a line for each broken file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _decode_all(count: int) -> float:
    """Decodes this many broken files and returns the seconds of the slowest."""
    slowest_s = 0.0
    for file in mutated(photos(), count, seed=11):
        started_s = time.monotonic()
        with contextlib.suppress(InvalidRequest):
            codec.decode(file, headers.probe(file, _LIMITS, "encoded"), "encoded")
        slowest_s = max(slowest_s, time.monotonic() - started_s)
    return slowest_s


async def _ask_all(address: str, messages: Iterator[pb.RemoveBackgroundRequest]) -> tuple[Counter[str], float]:
    """Returns how often each status came, and the seconds of the slowest answer."""
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0

    async def loop(channel: aio.Channel) -> None:
        nonlocal slowest_s
        stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        for message in messages:
            started_s = time.monotonic()
            try:
                await stub.RemoveBackground(message, timeout=30)
                outcomes["OK"] += 1
            except aio.AioRpcError as error:
                outcomes[error.code().name] += 1
            slowest_s = max(slowest_s, time.monotonic() - started_s)

    async with channel_to(address) as channel:
        await asyncio.gather(*(loop(channel) for _ in range(_AT_ONCE)))
    return outcomes, slowest_s
