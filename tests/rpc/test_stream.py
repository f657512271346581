"""RemoveBackgroundStream through a real server, with the bare stub, so that nothing helps the server."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

import images
from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.local import LocalServer

PHOTO = images.encode(images.scene())
LARGE = images.encode(images.textured(3000, 2000), "JPEG")
INVALID, EXHAUSTED, UNAVAILABLE = 3, 8, 14


def photo(name: str, data: bytes = PHOTO, image_format: Any = pb.IMAGE_FORMAT_JPEG) -> pb.RemoveBackgroundStreamRequest:
    request = pb.RemoveBackgroundRequest(encoded=data, output=pb.Output(format=image_format))
    return pb.RemoveBackgroundStreamRequest(id=name, request=request)


class Feed:
    """Messages as the test gives them."""

    def __init__(self) -> None:
        self._messages: queue.Queue[pb.RemoveBackgroundStreamRequest | None] = queue.Queue()
        self.taken = 0

    def put(self, *messages: pb.RemoveBackgroundStreamRequest | None) -> None:
        """None is the end."""
        for message in messages:
            self._messages.put(message)

    def __iter__(self) -> Iterator[pb.RemoveBackgroundStreamRequest]:
        while (message := self._messages.get()) is not None:
            self.taken += 1
            yield message


@pytest.fixture
def channel(server: LocalServer) -> Generator[grpc.Channel]:
    with open_channel(server) as channel:
        yield channel


def open_channel(server: LocalServer) -> grpc.Channel:
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    return grpc.insecure_channel(server.address, options=sizes)


def stream(channel: grpc.Channel, messages: Any, timeout_s: float = 60) -> Any:
    return pb_grpc.BackgroundRemovalServiceStub(channel).RemoveBackgroundStream(iter(messages), timeout=timeout_s)


def test_each_photo_is_answered_under_its_id(channel: grpc.Channel) -> None:
    unary = pb_grpc.BackgroundRemovalServiceStub(channel).RemoveBackground(photo("").request, timeout=10)
    call = stream(channel, [photo(f"photo {n}") for n in range(30)])
    answers = list(call)
    assert sorted(answer.id for answer in answers) == sorted(f"photo {n}" for n in range(30))
    assert all(answer.response.image == unary.image for answer in answers)
    assert call.code() == grpc.StatusCode.OK
    assert dict(call.initial_metadata())["x-request-id"]


def test_an_empty_stream_ends_well(channel: grpc.Channel) -> None:
    call = stream(channel, [])
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK


def test_answers_come_as_they_finish(channel: grpc.Channel) -> None:
    answers = [answer.id for answer in stream(channel, [photo("large", LARGE), photo("small")])]
    assert answers == ["small", "large"]


def test_a_bad_photo_is_answered_in_its_place_and_the_stream_lives_on(channel: grpc.Channel) -> None:
    bad = photo("options")
    bad.request.output.quality = 500
    unknown = photo("model")
    unknown.request.model = "nothing"
    answers = {a.id: a for a in stream(channel, [photo("bytes", b"no photo"), bad, unknown, photo("good")])}
    assert answers["good"].response.width == 96
    codes = {name: answer.error.code for name, answer in answers.items()}
    assert codes == {"bytes": INVALID, "options": INVALID, "model": 5, "good": 0}
    details = BadRequest()
    assert answers["options"].error.details[0].Unpack(details)
    assert details.field_violations[0].field == "output.quality"


def test_what_is_no_message_ends_the_stream(channel: grpc.Channel) -> None:
    raw: Any = channel
    call = raw.stream_stream("/mattebox.v1.BackgroundRemovalService/RemoveBackgroundStream")(
        iter([b"\xff"]), timeout=10
    )
    with pytest.raises(grpc.RpcError):
        list(call)
    assert call.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_an_id_that_is_none(channel: grpc.Channel, name: str) -> None:
    bad, good = stream(channel, [photo(name), photo("good")])
    if bad.id == "good":
        bad, good = good, bad
    assert (bad.id, bad.error.code, "id" in bad.error.message) == (name, INVALID, True)
    assert good.response.width == 96


def test_an_id_that_is_in_flight(channel: grpc.Channel) -> None:
    answers = list(stream(channel, [photo("same", LARGE), photo("same")]))
    assert [(answer.id, answer.error.code) for answer in answers] == [("same", INVALID), ("same", 0)]
    again = list(stream(channel, [photo("same"), photo("other")]))  # on another stream it is free
    assert [answer.error.code for answer in again] == [0, 0]


def test_the_caller_may_wait_between_photos(channel: grpc.Channel) -> None:
    feed = Feed()
    call = stream(channel, feed)
    for name in ("one", "two"):
        feed.put(photo(name))
        assert next(call).id == name
    feed.put(None)
    assert list(call) == []


def test_a_caller_that_does_not_read_is_not_read_from(colour_model: Path) -> None:
    """Its photos stay with it: the server's memory doesn't grow with them."""
    with LocalServer([colour_model], ["--max-stream-photos", "2"]) as server, open_channel(server) as channel:
        process = psutil.Process(server.pid)
        list(stream(channel, [photo(f"warm {n}", LARGE, pb.IMAGE_FORMAT_RAW) for n in range(4)]))
        before = process.memory_info().rss
        feed = Feed()
        feed.put(*(photo(str(n), LARGE, pb.IMAGE_FORMAT_RAW) for n in range(60)), None)  # answers of 18 MB: 1 GB
        call = stream(channel, feed)
        time.sleep(3)  # nobody reads
        assert feed.taken < 40  # gRPC itself keeps some, at both ends
        assert process.memory_info().rss - before < 400 * 2**20
        names = {answer.id for answer in call}
        assert names == {str(n) for n in range(60)}


def test_a_caller_that_goes_away_is_forgotten(colour_model: Path) -> None:
    with LocalServer([colour_model]) as server, open_channel(server) as channel:
        feed = Feed()
        call = stream(channel, feed)
        feed.put(*(photo(str(n), LARGE) for n in range(20)))
        next(call)
        call.cancel()
        feed.put(None)
        answer = list(stream(channel, [photo("next")]))
        assert answer[0].response.width == 96
        wait_for(server, method="RemoveBackgroundStream", status="CANCELLED")


def test_a_deadline_is_that_of_all_its_photos(channel: grpc.Channel) -> None:
    call = stream(channel, [photo(str(n), LARGE) for n in range(200)], timeout_s=1)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_streams_have_a_limit(colour_model: Path) -> None:
    with LocalServer([colour_model], ["--max-streams", "1"]) as server, open_channel(server) as channel:
        feed = Feed()
        first = stream(channel, feed)
        feed.put(photo("one"))
        next(first)
        second = stream(channel, [photo("two")])
        with pytest.raises(grpc.RpcError):
            list(second)
        assert second.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(second.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        feed.put(None)
        assert list(first) == []
        assert next(stream(channel, [photo("three")])).id == "three"


def test_a_full_queue_is_answered_photo_by_photo(colour_model: Path) -> None:
    flags = ["--max-active", "1", "--max-queue", "0"]
    with LocalServer([colour_model], flags) as server, open_channel(server) as channel:
        answers = list(stream(channel, [photo(str(n), LARGE) for n in range(5)]))
    codes = sorted(answer.error.code for answer in answers)
    assert codes == [0, EXHAUSTED, EXHAUSTED, EXHAUSTED, EXHAUSTED]
    retry = RetryInfo()
    assert all(answer.error.details[0].Unpack(retry) for answer in answers if answer.error.code)


def test_a_server_that_drains_answers_what_it_has_read(colour_model: Path) -> None:
    with LocalServer([colour_model], ["--log-level", "debug"]) as server, open_channel(server) as channel:
        feed = Feed()
        call = stream(channel, feed)
        feed.put(*(photo(str(n), LARGE) for n in range(3)))
        wait_for(server, event="request started", request_id=None)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        answers: list[pb.RemoveBackgroundStreamResponse] = []
        with pytest.raises(grpc.RpcError):
            answers.extend(call)
        assert call.code() == grpc.StatusCode.UNAVAILABLE
        stopping.join(60)
        assert server.stop() == 0
        feed.put(None)
    assert any(event["event"] == "stopped" for event in server.events)


def wait_for(server: LocalServer, **fields: str | None) -> None:
    """Until the server's log has an event with these fields."""
    wanted = {name: value for name, value in fields.items() if value is not None}
    deadline = time.monotonic() + 30
    while not any(wanted.items() <= line.items() for line in list(server.events)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
