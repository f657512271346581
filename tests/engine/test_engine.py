"""The engine with sessions that the tests control: order, cancellation, deadlines, failures."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeSession, engine_of
from mattebox_server.engine.config import EngineConfig
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.session import Stop
from mattebox_server.errors import DeadlineExceeded, InferenceFailed, InvalidRequest, UnknownModel
from mattebox_server.imaging.pixels import Pixels


def photo(number: int, order: int = 0) -> Pixels:
    image = np.zeros((3, 4, 3), np.uint8)
    image[..., 0], image[..., 1] = number, order
    return image


async def infer(
    engine: Engine, image: Pixels, kept: frozenset[int] = frozenset(), deadline_s: float | None = None
) -> Inference:
    return await engine.infer(engine.network(""), image, kept, deadline_s)


async def eventually(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        await asyncio.sleep(0.005)


def test_everyone_gets_their_own_answer() -> None:
    engine = engine_of(FakeSession())

    async def ask() -> list[int]:
        calls = [infer(engine, photo(number), frozenset({1}), None) for number in range(50)]
        return [int(answer.foreground[0, 0]) for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == list(range(50))
    engine.close()


def test_keep_becomes_a_row_of_zeros_and_ones() -> None:
    session = FakeSession()
    engine = engine_of(session)
    asyncio.run(engine.infer(engine.network("fake"), photo(1), frozenset({0, 2}), None))
    assert session.kept == [[1, 0, 1]]
    engine.close()


def test_cancelled_and_expired_requests_are_never_run() -> None:
    session = FakeSession()
    session.gate.clear()
    engine = engine_of(session)

    async def ask() -> None:
        running = asyncio.create_task(infer(engine, photo(1)))
        await eventually(lambda: session.running)
        soon_s = time.monotonic() + 0.01
        cancelled = asyncio.create_task(infer(engine, photo(2)))
        expired = asyncio.create_task(infer(engine, photo(3), frozenset(), soon_s))
        patient = asyncio.create_task(infer(engine, photo(4), frozenset(), time.monotonic() + 60))
        await eventually(lambda: time.monotonic() >= soon_s)
        cancelled.cancel()
        await asyncio.sleep(0)
        session.gate.set()
        await running
        await patient
        with pytest.raises(DeadlineExceeded):
            await expired
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(ask())
    assert session.ran == [1, 4]
    engine.close()


def test_a_run_that_nobody_waits_for_is_stopped() -> None:
    """Callers who cancel cost the others little, and the session works as before."""
    session = FakeSession()
    session.gate.clear()
    engine = engine_of(session)

    async def ask() -> None:
        for _ in range(5):  # more often than a session may fail
            abandoned = asyncio.create_task(infer(engine, photo(1)))
            await eventually(lambda: session.running)
            abandoned.cancel()
            await eventually(lambda: not session.running)  # the gate is still closed
        session.gate.set()
        assert (await infer(engine, photo(2))).foreground[0, 0] == 2

    asyncio.run(ask())
    assert session.ran == [2]
    assert engine.networks[0].is_serving
    engine.close()


def test_a_run_goes_on_while_anybody_waits_for_it() -> None:
    session = FakeSession()
    session.gate.clear()
    engine = engine_of(session, max_batch=4)

    async def ask() -> None:
        first = asyncio.create_task(infer(engine, photo(1)))
        await eventually(lambda: session.running)
        both = [asyncio.create_task(infer(engine, photo(number))) for number in (2, 3)]
        await asyncio.sleep(0)
        gate, session.gate = session.gate, threading.Event()
        gate.set()
        await first
        await eventually(lambda: session.running)
        both[0].cancel()
        await asyncio.wait(both[:1])
        assert not session.stopped.is_set()
        session.gate.set()
        assert (await both[1]).foreground[0, 0] == 3

    asyncio.run(ask())
    assert session.batches == [1, 2]
    engine.close()


def test_a_session_that_can_not_stop_ends_its_run() -> None:
    session = FakeSession()
    session.can_stop = False
    session.gate.clear()
    engine = engine_of(session)

    async def ask() -> None:
        abandoned = asyncio.create_task(infer(engine, photo(1)))
        await eventually(lambda: session.running)
        abandoned.cancel()
        await eventually(session.stopped.is_set)
        waiting = asyncio.create_task(infer(engine, photo(2)))
        await eventually(lambda: len(engine.networks[0].waiting) == 1)
        assert session.running
        session.gate.set()
        assert (await waiting).foreground[0, 0] == 2

    asyncio.run(ask())
    assert session.ran == [1, 2]
    engine.close()


def test_onnxruntime_stops(colour_model: Path) -> None:
    """A run ends between two nodes, and the session works as before."""
    engine = load_engine([colour_model], EngineConfig(provider="cpu"))
    session = engine.networks[0].sessions[0]
    image, keep = np.zeros((1, 64, 96, 3), np.uint8), np.ones((1, 4), np.float32)
    stop = Stop()
    stop.ask()
    with pytest.raises(Exception, match="terminate"):
        session.run(image, keep, stop)
    assert session.run(image, keep, Stop()).foreground.shape == (1, 64, 96)
    engine.close()


@pytest.mark.parametrize("order", [66, 67])
def test_a_failure_is_its_own(order: int) -> None:
    engine = engine_of(FakeSession())

    async def ask() -> list[object]:
        orders = [0, order, 0]
        calls = [infer(engine, photo(number, o)) for number, o in enumerate(orders)]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    good, bad, other = asyncio.run(ask())
    assert isinstance(bad, InferenceFailed)
    assert not isinstance(good, Exception)
    assert not isinstance(other, Exception)
    engine.close()


def test_models_by_name() -> None:
    engine = engine_of(FakeSession("a"), FakeSession("b"))
    assert engine.network("").spec.name == "a"
    assert engine.network("b").spec.name == "b"
    with pytest.raises(UnknownModel, match="this server has a, b"):
        engine.network("c")
    with pytest.raises(ValueError, match="a name of its own"):
        engine_of(FakeSession("a"), FakeSession("a"))
    with pytest.raises(ValueError, match="needs networks"):
        engine_of()


def test_photos_that_wait_share_a_run() -> None:
    session = FakeSession()
    session.gate.clear()
    engine = engine_of(session, max_batch=3)

    async def ask() -> list[tuple[int, int]]:
        calls = [asyncio.create_task(infer(engine, photo(number))) for number in range(6)]
        await eventually(lambda: len(engine.networks[0].waiting) == 5)
        session.gate.set()
        return [(int(answer.foreground[0, 0]), answer.batch_size) for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [(0, 1), (1, 3), (2, 3), (3, 3), (4, 2), (5, 2)]
    engine.close()


def test_a_photo_out_of_bounds_is_the_callers_affair() -> None:
    session = FakeSession()
    session.bounds = (3, 6)
    engine = engine_of(session)
    asyncio.run(infer(engine, photo(1)))
    for size in ((3, 7), (7, 3), (2, 4), (4, 2)):
        with pytest.raises(InvalidRequest, match="photo: is too long and narrow"):
            asyncio.run(infer(engine, np.zeros((*size, 3), np.uint8)))
    engine.close()
