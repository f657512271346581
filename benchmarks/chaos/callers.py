"""Callers of the fault scenarios: an open loop with calls at fixed times, closed loops, and a well-behaved caller."""

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
    ("grpc.use_local_subchannel_pool", 1),  # each channel has a connection of its own, and so counts as a caller
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
]

Photo = bytes


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    Args:
        status: name of the gRPC status.
        began_s: time at which the call was due, on the clock of `time.monotonic`.
        seconds: time from then to the answer.
        retry: whether the refusal says when to try again.
    """

    status: str
    began_s: float
    seconds: float
    retry: bool = False


def photo_of(width_px: int, height_px: int) -> Photo:
    """Returns a photo of a person as a JPEG file of this size."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((width_px, height_px)).save(file, "JPEG", quality=90)
    return file.getvalue()


def channel_to(address: str) -> aio.Channel:
    """Opens a channel that shares its connection with no other channel and never retries."""
    return aio.insecure_channel(address, options=_OPTIONS)


def request_of(photo: Photo) -> pb.RemoveBackgroundRequest:
    """Returns a request for a JPEG composite of the photo."""
    return pb.RemoveBackgroundRequest(encoded=photo, output=pb.Output(format=pb.IMAGE_FORMAT_JPEG))


async def call(channel: aio.Channel, photo: Photo, due_s: float, timeout_s: float = 120) -> Outcome:
    """Makes one call and returns how it ended."""
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
    """Lets each caller, on a connection of its own, call again as soon as it is answered; at least one call each."""
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
    """Makes calls at fixed times, whether or not the earlier ones have been answered (an open loop)."""
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
    """Calls with one request at a time, as a well-behaved caller does."""
    return asyncio.run(closed_loop(address, photo, 1, seconds, pause_s=0.01))


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the value that this share of all values doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
