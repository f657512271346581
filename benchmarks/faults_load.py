"""Callers for the faults: offered load at fixed times, closed loops, and one that is well-behaved."""

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import skimage.data
from grpc import aio
from PIL import Image

from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc

CONNECTIONS = 8
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: to the server, a caller of its own
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
]

Photo = bytes


@dataclass(frozen=True)
class Outcome:
    """One call.

    Args:
        status: name of the gRPC status.
        began_s: when it was due, on the clock of `time.monotonic`.
        seconds: from then to the answer.
        retry: whether it says when to come back.
    """

    status: str
    began_s: float
    seconds: float
    retry: bool = False


def photo_of(width_px: int, height_px: int) -> Photo:
    """A JPEG of a person."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((width_px, height_px)).save(file, "JPEG", quality=90)
    return file.getvalue()


def channel_to(address: str) -> aio.Channel:
    """A connection of its own, without retries."""
    return aio.insecure_channel(address, options=_OPTIONS)


def request_of(photo: Photo) -> pb.RemoveBackgroundRequest:
    """JPEG in, JPEG out."""
    return pb.RemoveBackgroundRequest(encoded=photo, output=pb.Output(format=pb.IMAGE_FORMAT_JPEG))


async def call(channel: aio.Channel, photo: Photo, due_s: float, timeout_s: float = 120) -> Outcome:
    """One call and how it ended."""
    stub = pb_grpc.BackgroundRemovalServiceStub(channel)
    try:
        await stub.RemoveBackground(request_of(photo), timeout=timeout_s)
    except aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        retry = "grpc-status-details-bin" in trailing and "grpc-retry-pushback-ms" in trailing
        return Outcome(error.code().name, due_s, time.monotonic() - due_s, retry)
    return Outcome("OK", due_s, time.monotonic() - due_s)


async def closed_loop(
    address: str, photo: Photo, callers: int, seconds: float, *, timeout_s: float = 120, pause_s: float = 0
) -> list[Outcome]:
    """Callers, each on its own connection, that call again when they are answered; at least once."""
    until_s = time.monotonic() + seconds

    async def loop() -> list[Outcome]:
        outcomes: list[Outcome] = []
        async with channel_to(address) as channel:
            while not outcomes or time.monotonic() < until_s:
                outcomes.append(await call(channel, photo, time.monotonic(), timeout_s))
                await asyncio.sleep(pause_s)
        return outcomes

    return [outcome for some in await asyncio.gather(*(loop() for _ in range(callers))) for outcome in some]


async def offered(address: str, photo: Photo, rate_hz: float, seconds: float) -> list[Outcome]:
    """Open loop: calls are due at fixed times, whatever became of those before."""
    channels = [channel_to(address) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    tasks: list[asyncio.Task[Outcome]] = []
    started_s = time.monotonic()
    for number in range(int(rate_hz * seconds)):
        due_s = started_s + number / rate_hz
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        tasks.append(asyncio.create_task(call(channels[number % CONNECTIONS], photo, due_s)))
    outcomes = await asyncio.gather(*tasks)
    for channel in channels:
        await channel.close()
    return list(outcomes)


def steady(address: str, photo: Photo, seconds: float) -> list[Outcome]:
    """A well-behaved caller: one request at a time."""
    return asyncio.run(closed_loop(address, photo, 1, seconds, pause_s=0.01))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
