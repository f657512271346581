"""Networks of an engine whose files the tests control: sessions are rebuilt, networks are replaced."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Generator

import numpy as np
import pytest
from structlog.testing import capture_logs

from fakes import FakeFiles, FakeSession, engine_of
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.lifecycle import Backoff
from mattebox_server.engine.network import Network
from mattebox_server.engine.reloading import Reloader
from mattebox_server.errors import InferenceFailed, NotServing, StartupError
from mattebox_server.imaging.pixels import Pixels

FIRE = 66  # what a FakeSession fails on
SOON = Backoff(0.001, 0.002)
LATE = Backoff(60.0, 60.0)
ENOUGH_S = 20.0


def photo(number: int, order: int = 0) -> Pixels:
    image = np.zeros((3, 4, 3), np.uint8)
    image[..., 0], image[..., 1] = number, order
    return image


def ask(engine: Engine, number: int = 1, order: int = 0, name: str = "") -> int:
    network = engine.network(name)
    return int(asyncio.run(engine.infer(network, photo(number, order), frozenset(), None)).foreground[0, 0])


def broken_session(name: str = "a") -> FakeSession:
    session = FakeSession(name)
    session.broken = True
    return session


def fail(engine: Engine, network: Network) -> None:
    for _ in range(3):
        with pytest.raises(InferenceFailed):
            asyncio.run(engine.infer(network, photo(1, FIRE), frozenset(), None))


def break_network(engine: Engine) -> None:
    """Breaks the default network's sessions, and sends photos until they are out of service."""
    network = engine.network("")
    for session in network.sessions:
        assert isinstance(session, FakeSession)
        session.broken = True
    fail(engine, network)


def until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + ENOUGH_S
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def is_serving(engine: Engine, name: str) -> bool:
    return next(network.is_serving for network in engine.networks if network.spec.name == name)


@pytest.fixture
def files() -> Generator[FakeFiles]:
    files = FakeFiles()
    yield files
    files.gate.set()


# Backoff


def test_backoff_doubles_up_to_its_limit() -> None:
    for attempts, longest_s in ((0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60), (10**6, 60)):
        delays_s = {Backoff().delay_s(attempts) for _ in range(20)}
        assert all(0.75 * longest_s <= delay_s <= longest_s for delay_s in delays_s)
        assert len(delays_s) > 1


# Rebuilt


def test_a_network_that_fails_is_rebuilt_until_it_serves(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), FakeSession("b"), files=files, backoff=SOON)
    files.gate.clear()
    files.failures = [StartupError("no file"), RuntimeError("no driver")]
    changes: list[bool] = []
    engine.on_change(lambda: changes.append(is_serving(engine, "a")))
    with capture_logs() as logs:
        break_network(engine)
        with pytest.raises(NotServing, match="the model a failed and is being rebuilt"):
            engine.network("")
        until(lambda: files.inside == 1)
        assert [ask(engine, n, name="b") for n in range(3)] == [0, 1, 2]  # while somebody is at it
        files.gate.set()
        until(lambda: is_serving(engine, "a") and len(changes) == 2)
    assert ask(engine, 7) == 7
    assert files.opened[0].ran == [7]
    assert (files.calls, changes) == (3, [False, True])
    refused = [entry for entry in logs if entry["event"] == "the session can't be rebuilt"]
    assert [entry["reason"] for entry in refused] == ["no file", "no driver"]
    assert [bool(entry["exc_info"]) for entry in refused] == [False, True]  # what nobody expected has a traceback
    assert [entry["attempts"] for entry in logs if entry["event"] == "session rebuilt"] == [3]
    engine.close()


def test_attempts_count_until_a_caller_was_answered(files: FakeFiles) -> None:
    """A session that passes its check when it is opened, and fails it again later, isn't rebuilt every second."""
    seen: list[int] = []

    class Noting(Backoff):
        def delay_s(self, attempts: int) -> float:
            seen.append(attempts)
            return 0.0

    engine = engine_of(FakeSession("a"), files=files, backoff=Noting())
    for _ in range(3):
        break_network(engine)
        until(lambda: is_serving(engine, "a"))
    ask(engine)
    break_network(engine)
    until(lambda: is_serving(engine, "a"))
    assert seen == [0, 1, 2, 0]
    engine.close()


def test_callers_are_told_when_to_come_back(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), files=files, backoff=Backoff(30.0, 60.0))
    break_network(engine)

    def retry_after_s() -> float:
        with pytest.raises(NotServing) as caught:
            engine.network("")
        return caught.value.retry_after_s

    until(lambda: retry_after_s() >= 20)
    engine.close()


def test_close_waits_for_no_attempt(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), FakeSession("b"), files=files, backoff=SOON)
    changes: list[int] = []
    files.gate.clear()
    break_network(engine)
    until(lambda: files.inside == 1)
    engine.on_change(lambda: changes.append(1))
    engine.close()
    assert files.inside == 1
    files.gate.set()
    until(lambda: all(thread.name != "rebuilding" for thread in threading.enumerate()))
    assert changes == []  # the event loop of the callback may be closed by then


def test_close_ends_the_wait_for_an_attempt(files: FakeFiles) -> None:
    def rebuilding() -> int:
        return sum(thread.name == "rebuilding" for thread in threading.enumerate())

    before = rebuilding()
    engine = engine_of(FakeSession("a"), files=files, backoff=LATE)
    break_network(engine)
    assert rebuilding() == before + 1
    engine.close()
    until(lambda: rebuilding() == before)
    assert files.calls == 0


def test_photos_that_make_a_network_fail_take_it_from_nobody(files: FakeFiles) -> None:
    """One caller may send them for ever: the sessions answer the check photo, and stay in service."""
    session = FakeSession("a")
    engine = engine_of(session, files=files, backoff=SOON)
    for number in range(5):
        fail(engine, engine.network(""))
        assert ask(engine, number) == number
    assert (session.checks, files.calls) == (5, 0)
    engine.close()


# Replaced


def test_requests_end_on_the_network_that_they_were_prepared_for(files: FakeFiles) -> None:
    old = FakeSession("a")
    engine = engine_of(old, files=files)

    async def scenario() -> list[Inference]:
        prepared = engine.network("a")
        old.gate.clear()
        running = asyncio.create_task(engine.infer(prepared, photo(1), frozenset(), None))
        waiting = asyncio.create_task(engine.infer(prepared, photo(2), frozenset(), None))
        await asyncio.to_thread(until, lambda: old.running and len(prepared.waiting) == 1)
        await asyncio.to_thread(engine.reload)
        new = asyncio.create_task(engine.infer(engine.network("a"), photo(3), frozenset(), None))
        late = asyncio.create_task(engine.infer(prepared, photo(4), frozenset(), None))
        await asyncio.sleep(0)
        old.gate.set()
        return list(await asyncio.gather(running, waiting, new, late))

    assert [int(found.foreground[0, 0]) for found in asyncio.run(scenario())] == [1, 2, 3, 4]
    assert (sorted(old.ran), files.opened[0].ran) == ([1, 2, 4], [3])
    engine.close()


def test_the_old_sessions_are_freed(files: FakeFiles) -> None:
    session = FakeSession("a")
    gone = weakref.ref(session)
    engine = engine_of(session, FakeSession("b"), files=files)
    del session
    assert ask(engine) == 1
    held = engine.network("")
    engine.reload()
    assert gone() is not None  # a request was prepared for it
    del held
    until(lambda: gone() is None)
    assert [network.spec.name for network in engine.networks] == ["a", "b"]
    engine.close()


@pytest.mark.parametrize("error", [StartupError("it is no model"), RuntimeError("the driver is gone"), MemoryError()])
def test_what_is_refused_leaves_the_old_one(files: FakeFiles, error: Exception) -> None:
    engine = engine_of(FakeSession("a"), FakeSession("b"), files=files)
    before = engine.networks
    files.failures = [error]
    with capture_logs() as logs:
        engine.reload()
    assert engine.networks[0] is before[0]
    assert engine.networks[1] is not before[1]  # one that is refused doesn't keep the others
    assert ask(engine, 5) == 5
    refused = next(entry for entry in logs if entry["event"] == "the new model is refused, the old one stays")
    assert (refused["model"], refused["reason"], refused["log_level"]) == ("a", str(error), "error")
    assert [entry["model"] for entry in logs if entry["event"] == "model reloaded"] == ["b"]
    engine.close()


def test_only_what_has_changed(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), FakeSession("b"), files=files)
    before = engine.networks
    engine.reload_changed()
    assert engine.networks == before
    files.news = ["b"]
    engine.reload_changed()
    assert [new is old for new, old in zip(engine.networks, before, strict=True)] == [True, False]
    engine.close()


def test_a_reload_takes_the_place_of_a_rebuild(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), files=files, backoff=LATE)
    changes: list[bool] = []
    break_network(engine)
    engine.on_change(lambda: changes.append(is_serving(engine, "a")))
    engine.reload()
    assert ask(engine, 3) == 3
    assert changes == [True]
    until(lambda: all(thread.name != "rebuilding" for thread in threading.enumerate()))
    assert files.calls == 1
    engine.close()


def test_an_old_network_that_fails_is_not_rebuilt(files: FakeFiles) -> None:
    engine = engine_of(broken_session(), files=files, backoff=SOON)
    old = engine.network("")
    engine.reload()
    fail(engine, old)
    until(lambda: all(thread.name != "rebuilding" for thread in threading.enumerate()))
    assert files.calls == 1
    with pytest.raises(NotServing):
        asyncio.run(engine.infer(old, photo(1), frozenset(), None))
    assert ask(engine) == 1
    engine.close()


# Whoever asks


def test_who_asks_while_a_reload_goes_on_gets_another(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), files=files)
    reloader = Reloader(engine, None)
    files.gate.clear()
    reloader.ask()
    until(lambda: files.inside == 1)
    for _ in range(5):
        reloader.ask()  # at once: and one reload after this one is enough for all
    assert ask(engine) == 1
    files.gate.set()
    until(lambda: (files.calls, files.inside) == (2, 0))
    reloader.close()
    reloader.ask()
    until(lambda: all(thread.name != "reloading" for thread in threading.enumerate()))
    assert (files.calls, files.most_inside) == (2, 1)
    engine.close()


def test_nobody_looks_at_the_files_unasked(files: FakeFiles) -> None:
    engine = engine_of(FakeSession("a"), files=files)
    files.news = ["a"]
    quiet = Reloader(engine, None)
    quiet.ask()
    until(lambda: files.calls == 1)
    assert files.news == ["a"]
    quiet.close()
    looking = Reloader(engine, 0.01)
    until(lambda: files.calls == 2)
    looking.close()
    engine.close()


def test_close_ends_a_reload_of_many_after_the_one_that_goes_on(files: FakeFiles) -> None:
    engine = engine_of(*(FakeSession(name) for name in "abc"), files=files)
    files.gate.clear()
    thread = threading.Thread(target=engine.reload)
    thread.start()
    until(lambda: files.inside == 1)
    engine.close()
    files.gate.set()
    thread.join(ENOUGH_S)
    assert files.calls == 1


def test_the_names_must_differ() -> None:
    network = engine_of(FakeSession("a")).networks[0]
    with pytest.raises(ValueError, match="a name of its own"):
        Engine([network, Network(network.sessions, network.limits)], FakeFiles())
