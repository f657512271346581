"""What requests and answers hold is gone or accounted for: a real server whose callers read nothing."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from waiting import eventually

CALLERS = 24
MEBIBYTE = 2**20
METHOD = "/mattebox.v1.BackgroundRemovalService/RemoveBackground"
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]


@contextmanager
def deaf_callers(address: str, request: bytes) -> Generator[list[Any]]:
    """Calls on connections of their own, of whose answers nothing is read: each is a stream, whose first message the
    caller never asks for."""
    channels: list[Any] = [grpc.insecure_channel(address, options=OPTIONS) for _ in range(CALLERS)]
    try:
        yield [channel.unary_stream(METHOD)(request, timeout=120) for channel in channels]
    finally:
        for channel in channels:
            channel.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_answers_that_nobody_reads_take_no_more_than_the_memory_bound(colour_model: Path) -> None:
    """24 raw photos of 20 MB with answers of 20 MB, and 512 MiB for requests that have arrived."""
    height, width = 2500, 2667
    raw = pb.RawImage(
        width=width,
        height=height,
        pixel_format=pb.PIXEL_FORMAT_RGB8,
        data=np.zeros((height, width, 3), np.uint8).tobytes(),
    )
    output = pb.Output(format=pb.IMAGE_FORMAT_RAW)
    request = pb.RemoveBackgroundRequest(raw=raw, output=output).SerializeToString()
    flags = ["--max-photo-pixels", "8000000", "--memory-bytes", str(512 * MEBIBYTE * 4 // 3), "--provider", "cpu"]
    with LocalServer([colour_model], flags) as server:
        process = psutil.Process(server.pid)
        before, most, over = process.memory_info().rss, 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not over.wait(0.01):
                most = max(most, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with deaf_callers(server.address, request) as calls:
            ended = {id(call) for call in calls}

            def worked_out() -> bool:
                """All are refused, or have their answer begun."""
                for call in calls:
                    if id(call) in ended and (call.done() or call.initial_metadata() is not None):
                        ended.discard(id(call))
                return not ended

            eventually(worked_out)
            assert any(not call.done() for call in calls)  # some answers wait to be read
        over.set()
        watcher.join()
    assert most - before < 1000 * MEBIBYTE
