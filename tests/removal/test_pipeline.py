"""The pipeline without a server: deadlines, cancellation, admission, and that every permit comes back."""

import asyncio
import itertools
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

import images
from fakes import FakeFiles, FakeSession, engine_of
from mattebox_server.admission.admission import Admission
from mattebox_server.admission.lane import Origin, QueueLimits
from mattebox_server.errors import BadPhoto, DeadlineExceeded, InferenceFailed, InvalidRequest, NotServing, Overloaded
from mattebox_server.imaging import codec
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.records import Timeline
from mattebox_server.removal.pipeline import Answer, Pipeline
from mattebox_server.request import EncodedPhoto, RemovalRequest

PHOTO = EncodedPhoto(images.encode(images.scene()))
HELD_BYTES = 20 * 96 * 64


async def removed(pipeline: Pipeline, request: RemovalRequest, deadline_s: float | None = None) -> Answer:
    with pipeline.admission.entry(Origin("me", deadline_s)) as entry:
        return await pipeline.remove_background(request, entry, Timeline())


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def pipeline(session: FakeSession) -> Generator[Pipeline]:
    engine = engine_of(session)
    pipeline = Pipeline(
        engine, Admission(("fake",), QueueLimits(2, 0, 60), 2 * HELD_BYTES), PhotoLimits(10**6, 10**6), 1
    )
    yield pipeline
    session.gate.set()
    pipeline.close()
    engine.close()


def test_an_answer_holds_everything(pipeline: Pipeline) -> None:
    times = Timeline()

    async def scenario() -> Answer:
        with pipeline.admission.entry(Origin()) as entry:
            return await pipeline.remove_background(RemovalRequest(PHOTO), entry, times)

    answer = asyncio.run(scenario())
    assert answer.composite.size == (96, 64)
    assert answer.batch_size == 1
    assert images.decode(answer.composite.image).shape == (64, 96, 3)
    assert [stage.name for stage in times] == ["wait", "decode", "preprocess", "queue", "infer", "matte", "encode"]
    for before, after in itertools.pairwise(times):
        assert before.started_s + before.seconds <= after.started_s + 1e-6


def test_an_expired_request_costs_no_pixel(pipeline: Pipeline, session: FakeSession) -> None:
    broken = RemovalRequest(EncodedPhoto(b"never looked at"))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(removed(pipeline, broken, time.monotonic() - 1))
    assert session.ran == []


def test_a_deadline_between_the_network_and_the_matte(pipeline: Pipeline, session: FakeSession) -> None:
    session.gate.clear()

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(0.3, session.gate.set)
        with pytest.raises(DeadlineExceeded, match="after a stage"):
            await removed(pipeline, RemovalRequest(PHOTO), time.monotonic() + 0.2)

    asyncio.run(scenario())
    assert len(session.ran) == 1


def test_limits_of_requests_and_pixels(pipeline: Pipeline, session: FakeSession) -> None:
    session.gate.clear()
    large = EncodedPhoto(images.encode(images.scene(97, 64)))

    async def scenario() -> None:
        one = asyncio.create_task(removed(pipeline, RemovalRequest(PHOTO)))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="memory"):
            await removed(pipeline, RemovalRequest(large))
        two = asyncio.create_task(removed(pipeline, RemovalRequest(PHOTO)))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="requests"):
            await removed(pipeline, RemovalRequest(PHOTO))
        session.gate.set()
        await asyncio.gather(one, two)

    asyncio.run(scenario())


def test_a_caller_that_leaves_holds_its_memory_until_its_thread_is_free(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, go_on, decode = threading.Event(), threading.Event(), codec.decode

    def held_decode(*arguments: Any) -> codec.Photo:
        decoding.set()
        assert go_on.wait(30)
        return decode(*arguments)

    monkeypatch.setattr(codec, "decode", held_decode)
    memory, lane = pipeline.admission.memory, pipeline.admission.lanes["fake"]

    async def scenario() -> None:
        call = asyncio.create_task(removed(pipeline, RemovalRequest(PHOTO)))
        await asyncio.to_thread(decoding.wait, 30)
        call.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not call.done()
        assert (memory.held_bytes, lane.active) == (HELD_BYTES, 1)
        go_on.set()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        assert (memory.held_bytes, lane.active) == (0, 0)

    asyncio.run(scenario())


def test_every_permit_comes_back(pipeline: Pipeline, session: FakeSession) -> None:
    """After failures, cancellations and refusals there is room for exactly as much as before."""

    async def scenario() -> None:
        for _ in range(5):
            with pytest.raises(BadPhoto):
                await removed(pipeline, RemovalRequest(EncodedPhoto(b"x")))
            with pytest.raises(InvalidRequest):
                await removed(pipeline, RemovalRequest(PHOTO, keep=("nothing",)))
            session.gate.clear()
            calls = [asyncio.create_task(removed(pipeline, RemovalRequest(PHOTO))) for _ in range(2)]
            await asyncio.sleep(0.05)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            session.gate.set()
        await asyncio.gather(*(removed(pipeline, RemovalRequest(PHOTO)) for _ in range(2)))

    asyncio.run(scenario())


def test_who_waits_while_the_model_is_replaced_runs_on_the_one_that_was_chosen(session: FakeSession) -> None:
    """Its classes were chosen by the labels of that one."""
    files = FakeFiles()
    engine = engine_of(session, files=files)
    pipeline = Pipeline(
        engine, Admission(("fake",), QueueLimits(1, 9, 60), 2 * HELD_BYTES), PhotoLimits(10**6, 10**6), 1
    )
    session.gate.clear()

    async def scenario() -> None:
        running, waiting = (asyncio.create_task(removed(pipeline, RemovalRequest(PHOTO))) for _ in range(2))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(engine.reload)
        session.gate.set()
        answers = [await running, await waiting, await removed(pipeline, RemovalRequest(PHOTO))]
        assert [answer.network is engine.network("") for answer in answers] == [False, False, True]

    asyncio.run(scenario())
    assert (len(session.ran), len(files.opened[0].ran)) == (2, 1)
    pipeline.close()
    engine.close()


def test_who_waits_for_a_model_that_fails_costs_no_pixel() -> None:
    session, files = FakeSession(), FakeFiles()
    files.gate.clear()
    engine = engine_of(session, files=files)
    pipeline = Pipeline(
        engine, Admission(("fake",), QueueLimits(1, 9, 60), 2 * HELD_BYTES), PhotoLimits(10**6, 10**6), 1
    )
    session.broken = True
    whole, broken = EncodedPhoto(images.encode(images.scene())), EncodedPhoto(b"never looked at")

    async def scenario() -> list[object]:
        calls = [removed(pipeline, RemovalRequest(photo)) for photo in (whole, whole, whole, broken, broken)]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    kinds = [type(outcome) for outcome in asyncio.run(scenario())]
    assert kinds == [InferenceFailed] * 3 + [NotServing] * 2
    files.gate.set()
    pipeline.close()
    engine.close()
