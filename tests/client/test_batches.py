"""Batches of both Python clients: order, laziness, errors, and the end of the loop before the last photo."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import grpc
import pytest

import images
import mattebox
from case_server import case_server
from fake_server import LONGEST_S, Held, composite, fake_server
from mattebox.batches import NamedPhoto, OnError, Slot, Window
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from shells import Shell, open_shell
from waiting import answered, eventually

PHOTO = images.encode(images.scene())
SMALL = mattebox.Output(size=20)
BOTH = pytest.mark.parametrize("kind", ["sync", "async"])


def test_ids_and_results(client: Shell) -> None:
    items = list(client.remove_backgrounds([PHOTO, ("cat", PHOTO), PHOTO], output=SMALL))
    assert sorted(item.id for item in items) == ["0", "2", "cat"]
    assert all(item.error is None and item.result is not None and item.result.width == 20 for item in items)


@BOTH
def test_results_in_order_and_as_they_finish(kind: str) -> None:
    """The server holds the first photo: in order until it has answered the others, else until their results are out."""
    answered, given_out = threading.Semaphore(0), threading.Event()

    def answer(request: pb.RemoveBackgroundRequest, _: object) -> pb.RemoveBackgroundResponse:
        if request.encoded == b"other":
            answered.release()
        elif request.model == "ordered":
            assert all(answered.acquire(timeout=LONGEST_S) for _ in range(5))
        else:
            assert given_out.wait(LONGEST_S)
        return composite()

    photos = [b"first", *[b"other"] * 5]
    with fake_server(answer) as address:
        client = open_shell(kind, address)
        results = client.remove_backgrounds(photos, ordered=True, model="ordered")
        assert [item.id for item in results] == ["0", "1", "2", "3", "4", "5"]
        results = client.remove_backgrounds(photos)
        assert {next(results).id for _ in range(5)} == {"1", "2", "3", "4", "5"}
        given_out.set()
        assert [item.id for item in results] == ["0"]
        client.close()


def test_photos_are_taken_as_there_is_room(client: Shell) -> None:
    taken: list[int] = []

    def without_end() -> Iterator[mattebox.PhotoSource]:
        for number in count():
            taken.append(number)
            yield PHOTO

    answers = client.remove_backgrounds(without_end(), concurrency=3)
    for done, _ in enumerate(islice(answers, 10)):
        assert len(taken) <= done + 3
    assert len(taken) <= 12


def test_none_at_all(client: Shell) -> None:
    assert list(client.remove_backgrounds([])) == []


def test_errors_are_returned(client: Shell, tmp_path: Path) -> None:
    missing, negative = tmp_path / "nowhere.jpg", mattebox.RawPhoto(b"", -1, 1)
    photos: list[NamedPhoto] = [PHOTO, ("broken", b"no photo"), ("missing", missing), ("negative", negative), PHOTO]
    items = {item.id: item for item in client.remove_backgrounds(photos, errors="return", ordered=True)}
    assert list(items) == ["0", "broken", "missing", "negative", "4"]
    assert isinstance(items["broken"].error, mattebox.InvalidRequest)
    assert items["broken"].error.request_id
    assert isinstance(items["missing"].error, FileNotFoundError)
    assert isinstance(items["negative"].error, mattebox.InvalidRequest)
    assert not items["negative"].error.request_id
    assert items["0"].result is not None
    assert items["4"].result is not None


def test_errors_are_raised_and_name_the_photo(client: Shell) -> None:
    with pytest.raises(mattebox.InvalidRequest) as caught:
        list(client.remove_backgrounds([PHOTO, ("broken", b"no photo"), PHOTO]))
    assert caught.value.__notes__ == ["photo 'broken'"]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"concurrency": 0}, ValueError),
        ({"errors": "ignore"}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"background": "whiite"}, mattebox.InvalidRequest),
        ({"output": mattebox.Output(quality=0)}, mattebox.InvalidRequest),
    ],
)
def test_wrong_options_take_no_photo(client: Shell, options: dict[str, Any], kind: type[Exception]) -> None:
    def photos() -> Iterator[mattebox.PhotoSource]:
        pytest.fail("a photo was taken")
        yield PHOTO

    with pytest.raises(kind):
        next(iter(client.remove_backgrounds(photos(), **options)))


@pytest.mark.parametrize("errors", ["raise", "return"])
@pytest.mark.parametrize("wrong", [None, 5, ("1", None)], ids=str)
def test_what_is_no_photo_is_raised_in_any_case(client: Shell, errors: OnError, wrong: Any) -> None:
    """A wrong type is a mistake in the program, and the iteration must not end in silence."""
    with pytest.raises(TypeError, match=r"expected bytes, a path or a binary file, not (NoneType|int)") as caught:
        list(client.remove_backgrounds([PHOTO, wrong, PHOTO], errors=errors))
    assert caught.value.__notes__ == ["photo '1'"]


@pytest.mark.parametrize("errors", ["raise", "return"])
def test_an_id_that_is_no_string_is_raised_in_any_case(client: Shell, errors: OnError) -> None:
    photos: list[Any] = [(1, PHOTO)]
    with pytest.raises(TypeError, match="must be a string, not int"):
        list(client.remove_backgrounds(photos, errors=errors))


def test_what_the_source_raises_ends_it(client: Shell) -> None:
    def photos() -> Iterator[mattebox.PhotoSource]:
        yield PHOTO
        raise RuntimeError("no more film")

    with pytest.raises(RuntimeError, match="film"):
        list(client.remove_backgrounds(photos(), errors="return"))


@BOTH
def test_leaving_early_cancels_the_rest(kind: str) -> None:
    held = Held()

    def answer(request: pb.RemoveBackgroundRequest, context: grpc.ServicerContext) -> pb.RemoveBackgroundResponse:
        if request.encoded == b"held":
            return held(context)
        eventually(lambda: held.begun == 7)
        return composite()

    with fake_server(answer) as address:
        client = open_shell(kind, address)
        answers = iter(client.remove_backgrounds([*[b"held"] * 7, b"answered"]))
        assert next(answers).id == "7"
        answers.close()  # type: ignore[attr-defined]  # pyright: ignore
        eventually(lambda: held.cancelled == 7)
        assert client.remove_background(b"answered").width == 1
        client.close()


@BOTH
def test_several_servers_share_them(colour_model: Path, kind: str) -> None:
    with LocalServer([colour_model]) as one, LocalServer([colour_model]) as two:
        client = open_shell(kind, [one.address, two.address])
        client.wait_until_ready()
        eventually(lambda: bool(client.remove_background(PHOTO)) and min(answered(one), answered(two)) > 0)
        before = answered(one), answered(two)
        assert sum(item.error is None for item in client.remove_backgrounds([PHOTO] * 20)) == 20
        eventually(lambda: answered(one) - before[0] + answered(two) - before[1] == 20)
        assert abs(answered(one) - before[0] - 10) <= 1
        client.close()


def test_an_asynchronous_source() -> None:
    """Results come although the source hasn't given the next photo."""

    async def scenario(address: str) -> list[str]:
        answered = asyncio.Event()

        async def photos() -> AsyncIterator[bytes]:
            yield PHOTO
            await answered.wait()
            yield PHOTO

        found: list[str] = []
        async with mattebox.AsyncClient(address) as client:
            async for item in client.remove_backgrounds(photos()):
                found.append(item.id)
                answered.set()
        return found

    with case_server() as address:
        assert asyncio.run(asyncio.wait_for(scenario(address), 30)) == ["0", "1"]


def test_the_window() -> None:
    window = Window(2, ordered=True, errors="return")
    slots: list[Slot] = [window.open(photo)[0] for photo in (b"a", ("x", b"b"))]
    assert not window.has_room
    slots[1].outcome = mattebox.BatchResult("x")
    assert list(window.ready()) == []
    assert not window.has_room  # a result that waits for its turn takes room too
    slots[0].outcome = mattebox.BatchResult("0")
    assert [item.id for item in window.ready()] == ["0", "x"]
    assert not window
    assert window.open(b"c")[0].id == "2"


def test_threads_may_share_a_client(server: LocalServer) -> None:
    found: list[int] = []
    with mattebox.Client(server.address) as client:

        def work() -> None:
            found.append(sum(item.error is None for item in client.remove_backgrounds([PHOTO] * 10)))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [10] * 4
