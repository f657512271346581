"""The pipeline without a server: deadlines, cancellation, admission, and that every permit comes back."""

import asyncio
import time
from collections.abc import Generator

import numpy as np
import pytest

import images
from fakes import FakeFiles, FakeSession, engine_of
from mattebox_server.admission.admission import Admission, Origin
from mattebox_server.admission.lane import LaneLimits
from mattebox_server.errors import BadPhoto, DeadlineExceeded, InferenceFailed, InvalidRequest, NotServing, Overloaded
from mattebox_server.imaging import codec
from mattebox_server.imaging.codec import Limits
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.request import EncodedPhoto, ImageBackground, RemovalRequest

PHOTO = EncodedPhoto(images.encode(images.scene()))
PIXELS = 96 * 64


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def pipeline(session: FakeSession) -> Generator[Pipeline]:
    engine = engine_of(session)
    pipeline = Pipeline(engine, Admission(("fake",), LaneLimits(2, 0, 60), 2 * PIXELS), Limits(10**6, 10**6), 1)
    yield pipeline
    session.gate.set()
    pipeline.close()
    engine.close()


def test_an_answer_holds_everything(pipeline: Pipeline) -> None:
    answer = asyncio.run(pipeline.remove_background(RemovalRequest(PHOTO)))
    assert answer.finished.size == (96, 64)
    assert answer.found.batch_size == 1
    assert images.decode(answer.finished.image).shape == (64, 96, 3)
    assert answer.total_s > 0


def test_an_expired_request_costs_no_pixel(pipeline: Pipeline, session: FakeSession) -> None:
    broken = RemovalRequest(EncodedPhoto(b"never looked at"))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(pipeline.remove_background(broken, Origin("me", time.monotonic() - 1)))
    assert session.ran == []


def test_a_deadline_between_the_network_and_the_matte(pipeline: Pipeline, session: FakeSession) -> None:
    session.gate.clear()

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(0.3, session.gate.set)
        with pytest.raises(DeadlineExceeded, match="after a stage"):
            await pipeline.remove_background(RemovalRequest(PHOTO), Origin("me", time.monotonic() + 0.2))

    asyncio.run(scenario())
    assert len(session.ran) == 1


def test_limits_of_requests_and_pixels(pipeline: Pipeline, session: FakeSession) -> None:
    session.gate.clear()
    large = EncodedPhoto(images.encode(images.scene(97, 64)))

    async def scenario() -> None:
        one = asyncio.create_task(pipeline.remove_background(RemovalRequest(PHOTO)))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="pixels"):
            await pipeline.remove_background(RemovalRequest(large))
        two = asyncio.create_task(pipeline.remove_background(RemovalRequest(PHOTO)))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="requests"):
            await pipeline.remove_background(RemovalRequest(PHOTO))
        session.gate.set()
        await asyncio.gather(one, two)

    asyncio.run(scenario())


def test_a_caller_that_leaves_during_the_decode_leaves_no_pixels_behind(pipeline: Pipeline) -> None:
    """The thread at work asks for the picture's pixels when the request has ended: it gets none."""
    picture = images.encode(images.scene())
    probe = codec.probe

    def slow_probe(data: bytes, limits: Limits, field: str) -> codec.Header:
        header = probe(data, limits, field)
        if field == "background.image":
            time.sleep(0.1)
        return header

    async def scenario() -> None:
        request = RemovalRequest(PHOTO, background=ImageBackground(picture))
        for _ in range(3):
            call = asyncio.create_task(pipeline.remove_background(request))
            await asyncio.sleep(0.05)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(0.1)
        await pipeline.remove_background(request)  # takes all the pixels that there are

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "probe", slow_probe)
        asyncio.run(scenario())


def test_every_permit_comes_back(pipeline: Pipeline, session: FakeSession) -> None:
    """After failures, cancellations and refusals there is room for exactly as much as before."""

    async def scenario() -> None:
        for _ in range(5):
            with pytest.raises(BadPhoto):
                await pipeline.remove_background(RemovalRequest(EncodedPhoto(b"x")))
            with pytest.raises(InvalidRequest):
                await pipeline.remove_background(RemovalRequest(PHOTO, keep=("nothing",)))
            session.gate.clear()
            calls = [asyncio.create_task(pipeline.remove_background(RemovalRequest(PHOTO))) for _ in range(2)]
            await asyncio.sleep(0.05)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            session.gate.set()
        await asyncio.gather(*(pipeline.remove_background(RemovalRequest(PHOTO)) for _ in range(2)))

    asyncio.run(scenario())


def test_who_waits_while_the_model_is_replaced_runs_on_the_one_that_was_chosen(session: FakeSession) -> None:
    """Its classes were chosen by the labels of that one."""
    files = FakeFiles()
    engine = engine_of(session, files=files)
    pipeline = Pipeline(engine, Admission(("fake",), LaneLimits(1, 9, 60), 2 * PIXELS), Limits(10**6, 10**6), 1)
    session.gate.clear()

    async def scenario() -> None:
        running, waiting = (asyncio.create_task(pipeline.remove_background(RemovalRequest(PHOTO))) for _ in range(2))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(engine.reload)
        session.gate.set()
        answers = [await running, await waiting, await pipeline.remove_background(RemovalRequest(PHOTO))]
        assert [answer.network is engine.network("") for answer in answers] == [False, False, True]

    asyncio.run(scenario())
    assert (len(session.ran), len(files.opened[0].ran)) == (2, 1)
    pipeline.close()
    engine.close()


def test_who_waits_for_a_model_that_fails_costs_no_pixel() -> None:
    session, files = FakeSession(), FakeFiles()
    files.gate.clear()
    engine = engine_of(session, files=files)
    pipeline = Pipeline(engine, Admission(("fake",), LaneLimits(1, 9, 60), 2 * PIXELS), Limits(10**6, 10**6), 1)
    fire = EncodedPhoto(images.encode(np.full((64, 96, 3), 66, np.uint8)))  # what a FakeSession fails on
    broken = EncodedPhoto(b"never looked at")

    async def scenario() -> list[object]:
        calls = [pipeline.remove_background(RemovalRequest(photo)) for photo in (fire, fire, fire, broken, broken)]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    kinds = [type(outcome) for outcome in asyncio.run(scenario())]
    assert kinds == [InferenceFailed] * 3 + [NotServing] * 2
    files.gate.set()
    pipeline.close()
    engine.close()
