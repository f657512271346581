"""Callers who send or receive slowly, or break off: through a real server, and the reception by itself."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from chaos.proxy import Proxy
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

import images
import mattebox
from altered import ONE_AT_A_TIME, altered_server
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.admission.reception import Reception
from mattebox_server.errors import DeadlineExceeded, Overloaded
from mattebox_server.local import LocalServer
from mattebox_server.records import Record
from mattebox_server.rpc.calls import CallerGone
from mattebox_server.rpc.wire import Wire

SMALL = images.encode(images.scene())
NOISE = images.encode(np.random.default_rng(0).integers(0, 256, (900, 1000, 3), np.uint8))  # 2.7 MB as PNG
SLOW = images.encode(images.textured(4000, 3000), "JPEG")
PASSES_BYTES = 100_000  # enough for the connection, too little for NOISE


def remove(address: str, data: bytes, timeout_s: float = 30) -> grpc.StatusCode:
    """A call on a connection of its own, without retries; the status that it ends with."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            request = pb.RemoveBackgroundRequest(encoded=data, output=pb.Output(format=pb.IMAGE_FORMAT_RAW))
            pb_grpc.BackgroundRemovalServiceStub(channel).RemoveBackground(request, timeout=timeout_s)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()
        return grpc.StatusCode.OK


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_queue_refuses_before_the_photo_is_there(colour_model: Path) -> None:
    flags = ["--max-queue", "0", "--log-level", "debug"]
    with (
        altered_server([colour_model], flags, ONE_AT_A_TIME) as server,
        Proxy(server.address, up_bytes=PASSES_BYTES) as proxy,
        ThreadPoolExecutor(1) as pool,
        mattebox.Client(server.address) as client,
    ):
        running = pool.submit(client.remove_background, SLOW, matte="grabcut")
        eventually(lambda: any(event["event"] == "request started" for event in server.events))
        assert remove(proxy.address, NOISE) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert running.result().width == 4000


def test_a_request_that_never_arrives_is_given_up(colour_model: Path) -> None:
    with (
        altered_server([colour_model], [], "app._RECEIVE_S = 0.5") as server,
        Proxy(server.address, up_bytes=PASSES_BYTES) as proxy,
    ):
        assert remove(proxy.address, NOISE) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert remove(server.address, SMALL) is grpc.StatusCode.OK


def test_slow_senders_do_not_keep_others_out(colour_model: Path) -> None:
    with (
        altered_server([colour_model], ["--log-level", "debug"], "settings._MAX_RECEIVING = 3") as server,
        Proxy(server.address, up_bytes=PASSES_BYTES) as proxy,
        ThreadPoolExecutor(3) as pool,
    ):
        slow = [pool.submit(remove, proxy.address, NOISE) for _ in range(3)]
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            statuses: set[grpc.StatusCode] = set()

            def got_in() -> bool:
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
                statuses.add(remove(server.address, SMALL))
                return any(future.done() for future in slow)

            eventually(got_in)  # the first ones may come while the slow ones are undisturbed yet
        assert grpc.StatusCode.OK in statuses
        first = next(future for future in slow if future.done())
        assert first.result() is grpc.StatusCode.RESOURCE_EXHAUSTED
        proxy.cut()


def test_an_answer_that_nobody_takes_is_let_go(colour_model: Path) -> None:
    """`test_metrics` shows that it is accounted for until then."""
    photo = images.encode(images.textured(2500, 2000), "JPEG")
    with (
        altered_server([colour_model], [], "app._SEND_S = 1") as server,
        Proxy(server.address, down_bytes=PASSES_BYTES) as proxy,
        ThreadPoolExecutor(1) as pool,
    ):
        request = pb.RemoveBackgroundRequest(encoded=photo, output=pb.Output(format=pb.IMAGE_FORMAT_RAW))

        def call() -> None:
            with grpc.insecure_channel(proxy.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
                pb_grpc.BackgroundRemovalServiceStub(channel).RemoveBackground(request, timeout=6)

        slow = pool.submit(call)  # an answer of 15 MB
        eventually(lambda: any(event["event"] == "the caller didn't take its answer" for event in server.events))
        assert remove(server.address, NOISE) is grpc.StatusCode.OK
        proxy.cut()
        assert isinstance(slow.exception(30), grpc.RpcError)
    assert not any("Traceback" in str(event) for event in server.events)


@pytest.mark.parametrize("limits", [{"up_bytes": PASSES_BYTES}, {"down_bytes": 10_000}])
def test_a_connection_that_breaks_costs_nobody_else_anything(colour_model: Path, limits: dict[str, int]) -> None:
    with LocalServer([colour_model]) as server:
        for _ in range(3):
            with Proxy(server.address, **limits) as proxy, ThreadPoolExecutor(4) as pool:
                broken = [pool.submit(remove, proxy.address, NOISE) for _ in range(4)]
                time.sleep(0.3)
                proxy.cut()
                assert {future.result() for future in broken} <= {grpc.StatusCode.UNAVAILABLE}
            assert remove(server.address, SMALL) is grpc.StatusCode.OK
    assert not any("Traceback" in str(event) for event in server.events)


def test_nothing_but_the_end_is_no_request(server: LocalServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        raw: Any = channel
        with pytest.raises(grpc.RpcError) as caught:
            raw.stream_unary("/mattebox.v1.BackgroundRemovalService/RemoveBackground")(iter([]), timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def arrive(reception: Reception, seconds: float, outcomes: dict[str, BaseException | None], name: str) -> None:
    """A request that takes so long to arrive; notes its error, or None."""
    try:
        async with reception.place():
            await asyncio.sleep(seconds)
        outcomes[name] = None
    except (Overloaded, DeadlineExceeded) as error:
        outcomes[name] = error


def test_the_oldest_of_those_that_arrive_makes_room() -> None:
    async def scenario() -> None:
        reception = Reception(2, 60)
        outcomes: dict[str, BaseException | None] = {}

        slow = [asyncio.create_task(arrive(reception, 30, outcomes, name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        await arrive(reception, 0, outcomes, "too soon")
        assert isinstance(outcomes["too soon"], Overloaded)
        await asyncio.sleep(1.1)
        await arrive(reception, 0, outcomes, "third")
        await asyncio.sleep(0)
        assert outcomes["third"] is None
        assert isinstance(outcomes["first"], Overloaded)
        assert "second" not in outcomes
        slow[1].cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(scenario())


def test_arriving_takes_only_so_long() -> None:
    async def scenario() -> None:
        reception = Reception(1, 0.05)
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            async with reception.place():
                await asyncio.sleep(30)
        async with reception.place():
            pass

    asyncio.run(scenario())


def test_who_arrives_as_the_time_of_the_oldest_is_over_takes_its_place() -> None:
    """The oldest request's error says that it took too long, and not that others are faster."""

    async def scenario() -> None:
        reception, loop = Reception(1, 60), asyncio.get_running_loop()
        outcomes: dict[str, BaseException | None] = {}

        oldest = asyncio.create_task(arrive(reception, 30, outcomes, "oldest"))
        await asyncio.sleep(0)
        (arrival,) = reception._arriving  # pyright: ignore[reportPrivateUsage]
        arrival.timer.reschedule(loop.time())  # it fires in the next turn of the loop, before the newcomer's task runs
        newcomer = loop.create_task(arrive(reception, 0, outcomes, "newcomer"))
        await asyncio.gather(oldest, newcomer)
        assert outcomes["newcomer"] is None
        assert isinstance(outcomes["oldest"], DeadlineExceeded)

    asyncio.run(scenario())


class GoneContext:
    """A call whose caller has gone: gRPC refuses to send anything."""

    async def send_initial_metadata(self, _: object) -> None:
        raise aio.InternalError("Failed grpc_call_start_batch: 10")

    async def write(self, _: bytes) -> None:
        raise AssertionError("nothing is sent after the metadata")


def test_a_call_that_is_gone_before_its_answer_is_dropped() -> None:
    wire = Wire(Reception(1, 60), 60)
    with pytest.raises(CallerGone):
        asyncio.run(wire.send(cast("Any", GoneContext()), b"answer", Record("RemoveBackground", "id", 0)))
