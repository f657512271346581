"""The batcher with sessions and a clock that the tests control: who runs when, with whom, and what each one gets."""

import asyncio
import itertools
import threading
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from time import monotonic
from types import SimpleNamespace

import numpy as np
import pytest
import structlog.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mattebox_server.engine.batcher import Batcher
from mattebox_server.engine.inference import Inference, run_session
from mattebox_server.engine.network import Network, NetworkLimits
from mattebox_server.engine.session import Maps
from mattebox_server.errors import DeadlineExceeded, InferenceFailed
from mattebox_server.imaging.pixels import Pixels
from probes import (
    ENOUGH_S,
    GOOD,
    POISON,
    RAISES,
    ROOMY,
    SMALL,
    TALL,
    WIDE,
    Batch,
    Bench,
    Clock,
    Device,
    Probe,
    advance,
    bench,
    busy,
    code,
    device_with_clock,
    now_s,
    numbers,
    photo,
)


@pytest.fixture(name="device")
def _device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return device_with_clock(monkeypatch)


# A batch


def test_a_busy_engine_collects_and_everyone_gets_their_own_rows(device: Device) -> None:
    session = Probe(device).hold()
    kept = [frozenset(indices) for indices in ((), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2))]
    with bench(device, [session]) as the:
        first = the.start(100)
        futures = [the.submit(n, kept=indices) for n, indices in enumerate(kept)]
        the.release()
        answers = [future.result(ENOUGH_S) for future in [first, *futures]]
    assert device.ran == [[100], [0, 1, 2, 3], [4, 5, 6]]
    assert [answer.batch_size for answer in answers] == [1, 4, 4, 4, 4, 3, 3, 3]
    for number, answer, indices in zip([100, *range(7)], answers, [frozenset[int](), *kept], strict=True):
        assert answer.classes is not None
        assert (answer.foreground == np.full(SMALL, number)).all()
        assert (answer.classes == np.full(SMALL, code(indices))).all()
    for answer in answers[1:]:  # no answer is a view of the whole batch
        assert answer.foreground.base is None
        assert answer.classes is not None
        assert answer.classes.base is None


def test_queue_and_run_are_timed_apart(device: Device) -> None:
    with busy(device, cost_s=2.0) as the:
        early = the.submit(1)
        advance(device, 5.0)
        late = the.submit(2)
        the.release()
        assert (early.result(ENOUGH_S).queue_s, early.result().infer_s) == (7.0, 2.0)
        assert (late.result(ENOUGH_S).queue_s, late.result().infer_s) == (2.0, 2.0)


def test_saliency_networks_get_no_keep_and_give_no_classes(device: Device) -> None:
    with busy(device, saliency=True) as the:
        futures = [the.first, the.submit(1, kept=frozenset({1})), the.submit(2)]
        the.release()
        assert numbers(futures) == [0, 1, 2]
        assert [future.result().classes for future in futures] == [None] * 3


def test_a_batch_has_one_shape_and_the_commonest_goes_first(device: Device) -> None:
    with busy(device) as the:
        shapes = [SMALL, WIDE, TALL, WIDE, TALL, SMALL, TALL]
        futures = [the.submit(number, shape=shape) for number, shape in enumerate(shapes, 1)]
        the.finish(futures)
    assert device.ran == [[0], [3, 5, 7], [1, 6], [2, 4]]


def test_more_than_a_batch_of_one_shape_is_no_advantage(device: Device) -> None:
    with busy(device, NetworkLimits(2, 1000.0)) as the:
        futures = [the.submit(n, shape=shape) for n, shape in enumerate([SMALL, WIDE, WIDE, WIDE, WIDE, SMALL], 1)]
        the.finish(futures)
    assert device.ran == [[0], [1, 6], [2, 3], [4, 5]]


@pytest.mark.parametrize(("waited_s", "first"), [(10.0, [2, 3]), (10.5, [1])])
def test_who_waited_too_long_goes_next(device: Device, waited_s: float, first: list[int]) -> None:
    with busy(device, NetworkLimits(4, 10.0)) as the:
        the.submit(1, shape=WIDE)
        advance(device, waited_s)
        futures = [the.submit(2), the.submit(3)]
        the.finish(futures)
    assert device.ran[1] == first


# A free device


def test_a_free_device_waits_for_nobody(device: Device) -> None:
    sessions = [Probe(device, "a").hold(), Probe(device, "b").hold()]
    with bench(device, sessions, NetworkLimits(8, 1000.0), runs=2) as the:
        the.start(1, "a")
        the.start(2, "b")
        assert [the.waiting(name) for name in "ab"] == [0, 0]


def test_replicas_run_side_by_side_but_no_session_twice(device: Device) -> None:
    sessions = [Probe(device).hold(), Probe(device).hold()]
    with bench(device, sessions, runs=3) as the:
        the.start(1)
        the.start(2)
        the.submit(3)
        assert the.waiting("net") == 1
        assert {batch.session for batch in device.inside} == set(sessions)


def test_networks_share_the_runs(device: Device) -> None:
    sessions = [Probe(device, "a").hold(), Probe(device, "b").hold()]
    with bench(device, sessions, runs=1) as the:
        the.start(1, "a")
        the.submit(2, "b")
        assert the.waiting("b") == 1


def test_whoever_has_an_answer_finds_the_session_free(device: Device) -> None:
    with bench(device, [Probe(device)], NetworkLimits(1, 0.0)) as the:
        for number in range(200):
            mode = RAISES if number % 5 == 0 else GOOD
            assert (the.submit(number, mode=mode).exception(ENOUGH_S) is None) == (mode == GOOD)
            assert len(the.networks["net"].idle) == 1


# Fairness


def order(device: Device) -> str:
    return "".join(batch.session.spec.name for batch in device.batches)


def run_both(device: Device, counts: tuple[int, int], costs_s: tuple[float, float]) -> str:
    """Runs `a` once while so many photos of both networks queue up; returns the networks in the order of runs."""
    sessions = [Probe(device, name, cost_s=cost_s).hold() for name, cost_s in zip("ab", costs_s, strict=True)]
    with bench(device, sessions, NetworkLimits(1, 1000.0)) as the:
        the.start(0, "a")
        futures = [the.submit(1 + n, name) for name, count in zip("ab", counts, strict=True) for n in range(count)]
        the.finish(futures)
    return order(device)


def test_networks_share_the_time_not_the_number_of_runs(device: Device) -> None:
    # a pays 3 a run, b 1: after a's first three seconds b is behind, and from then on it is three to one.
    assert run_both(device, (3, 9), (3.0, 1.0)) == "a" + "bbb" + "abbb" * 2 + "a"


def test_a_flood_does_not_keep_others_out(device: Device) -> None:
    assert run_both(device, (20, 2), (1.0, 1.0)).startswith("abab")


def test_failed_runs_are_paid_for(device: Device) -> None:
    sessions = [Probe(device, name, cost_s=2.0).hold() for name in "ab"]
    with bench(device, sessions, NetworkLimits(3, 1000.0)) as the:
        the.start(0, "a")
        futures = [the.submit(n, "a", mode=RAISES if n == 2 else GOOD) for n in (1, 2, 3)]
        futures += [the.submit(n, "b") for n in range(10, 22)]
        futures += [the.submit(4, "a", shape=WIDE)]
        the.finish(futures)
    # a stands at 2 and b at 0, so b goes; then a: one run that fails and three alone, 8 s, for which b gets three.
    assert order(device) == "a" + "b" + "aaaa" + "bbb" + "a"


def test_idleness_is_no_credit(device: Device) -> None:
    sessions = [Probe(device, name, cost_s=1.0) for name in "ab"]
    with bench(device, sessions, NetworkLimits(1, 1000.0)) as the:
        for number in range(50):
            the.submit(number, "a").result(ENOUGH_S)
        for session in sessions:
            session.hold()
        the.start(100, "a")
        futures = [the.submit(101 + n, "a") for n in range(5)] + [the.submit(201 + n, "b") for n in range(5)]
        the.finish(futures)
    assert order(device)[50:] == "a" + "ba" * 5


# The queue


def test_the_cancelled_leave_the_queue_at_once(device: Device) -> None:
    with busy(device) as the:
        futures = [the.submit(1), the.submit(2)]
        assert futures[0].cancel()
        assert the.waiting("net") == 1
        assert not the.first.cancel()
        done, _ = wait(futures[:1], ENOUGH_S)  # `wait` must know of the cancellation too
        assert done == {futures[0]}
        the.release()
        assert numbers([the.first, futures[1]]) == [0, 2]
    assert device.ran == [[0], [2]]


def test_cancelled_in_the_very_moment_of_the_choice(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy(device) as the:
        cancelled, other = the.submit(1), the.submit(2)
        # The thread that cancels is stopped before it reaches the batcher.
        monkeypatch.setattr(cancelled, "_invoke_callbacks", lambda: None)
        assert cancelled.cancel()
        assert the.waiting("net") == 2
        the.release()
        assert numbers([other]) == [2]
    assert device.ran == [[0], [2]]


def test_the_callbacks_of_the_expired_may_ask_again(device: Device) -> None:
    with busy(device) as the:
        expired = the.submit(1, deadline_s=now_s(device) + 1)
        advance(device, 1.0)
        again: Future[Future[Inference]] = Future()

        def ask(_: "Future[Inference]") -> None:  # on another thread, so that it hangs if this one holds the lock
            thread = threading.Thread(target=lambda: again.set_result(the.submit(2)))
            thread.start()
            thread.join(ENOUGH_S)
            assert not thread.is_alive()

        expired.add_done_callback(ask)
        the.release()
        assert isinstance(expired.exception(ENOUGH_S), DeadlineExceeded)
        assert numbers([again.result(ENOUGH_S / 2)]) == [2]
    assert device.ran == [[0], [2]]


# Deadlines


def test_who_comes_too_late_costs_nothing(device: Device) -> None:
    with bench(device, [Probe(device)]) as the:
        future = the.submit(0, deadline_s=now_s(device))
        assert future.done()
        with pytest.raises(DeadlineExceeded):
            future.result()
        assert numbers([the.submit(1, deadline_s=now_s(device) + 1)]) == [1]
    assert device.ran == [[1]]


def test_a_queue_of_the_expired_lets_others_run(device: Device) -> None:
    sessions = [Probe(device, name).hold() for name in "ab"]
    with bench(device, sessions) as the:
        the.start(0, "a")
        expired = [the.submit(n, "a", deadline_s=now_s(device) + 1) for n in range(1, 4)]
        advance(device, 2.0)
        other = the.submit(9, "b")
        the.release()
        assert numbers([other]) == [9]
        assert all(isinstance(future.exception(ENOUGH_S), DeadlineExceeded) for future in expired)
    assert device.ran == [[0], [9]]


def test_the_expired_take_no_place_in_a_batch(device: Device) -> None:
    with busy(device, NetworkLimits(2, 1000.0)) as the:
        for number in range(1, 5):
            the.submit(number, shape=WIDE, deadline_s=now_s(device) + 1)
        futures = [the.submit(5, deadline_s=now_s(device) + 1), the.submit(6), the.submit(7), the.submit(8)]
        advance(device, 1.0)
        the.finish(futures)
    assert device.ran == [[0], [6, 7], [8]]


def test_who_expires_while_others_are_tried_again_is_not_run_again(device: Device) -> None:
    with busy(device, cost_s=2.0) as the:
        deadlines = [now_s(device) + seconds for seconds in (100.0, 5.0, 100.0)]
        modes = [RAISES, GOOD, GOOD]
        futures = [
            the.submit(n, mode=mode, deadline_s=deadline_s)
            for n, mode, deadline_s in zip((1, 2, 3), modes, deadlines, strict=True)
        ]
        the.release()
        errors = [future.exception(ENOUGH_S) for future in futures]
    # 2 s until the batch, 2 s for it, 2 s for the first alone: the second's deadline has passed.
    assert [type(error) for error in errors] == [InferenceFailed, DeadlineExceeded, type(None)]
    assert device.ran == [[0], [1, 2, 3], [1], [3]]


# Failures


@pytest.mark.parametrize("mode", POISON)
@pytest.mark.parametrize("saliency", [False, True])
def test_a_failure_is_its_own(device: Device, mode: int, saliency: bool) -> None:
    with busy(device, saliency=saliency, cost_s=2.0) as the:
        futures = [the.submit(n, mode=mode if n == 2 else GOOD) for n in (1, 2, 3)]
        the.release()
        with pytest.raises(InferenceFailed, match="net on cpu failed"):
            futures[1].result(ENOUGH_S)
        answers = [futures[0].result(ENOUGH_S), futures[2].result(ENOUGH_S)]
        assert numbers([the.submit(4)]) == [4]
    assert [int(answer.foreground[0, 0]) for answer in answers] == [1, 3]
    assert [(a.batch_size, a.queue_s, a.infer_s) for a in answers] == [(1, 4.0, 2.0), (1, 8.0, 2.0)]
    assert device.ran == [[0], [1, 2, 3], [1], [2], [3], [4]]


def test_a_batch_that_is_too_large_is_no_secret(device: Device) -> None:
    with structlog.testing.capture_logs() as logs, busy(device) as the:
        the.sessions[0].fails_from = 3
        futures = [the.submit(n) for n in (1, 2, 3)]
        the.release()
        assert numbers(futures) == [1, 2, 3]
    assert [(entry["event"], entry["photos"]) for entry in logs] == [("a batch failed", 3)]
    assert "on fire" in logs[0]["reason"]


@pytest.mark.parametrize("mode", POISON)
def test_one_alone_is_not_tried_again(device: Device, mode: int) -> None:
    with bench(device, [Probe(device)]) as the:
        with pytest.raises(InferenceFailed):
            the.submit(1, mode=mode).result(ENOUGH_S)
        assert numbers([the.submit(2)]) == [2]
    assert device.ran == [[1], [2]]


def test_classes_that_the_network_does_not_know_fail_alone(device: Device) -> None:
    with busy(device) as the:
        futures = [the.submit(1), the.submit(2, kept=frozenset({7})), the.submit(3)]
        the.release()
        assert isinstance(futures[1].exception(ENOUGH_S), InferenceFailed)
        assert numbers([futures[0], futures[2]]) == [1, 3]


class Unspeakable(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Unspeakable(), GeneratorExit()])
def test_the_threads_survive_every_error_of_a_session(
    device: Device, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    session = Probe(device)

    def fail(_: Pixels, __: NDArray[np.float32] | None) -> Maps:
        raise error

    with bench(device, [session]) as the:
        with monkeypatch.context() as patch:
            patch.setattr(session, "run", fail)
            assert the.submit(1).exception(ENOUGH_S) is not None
        assert numbers([the.submit(2)]) == [2]


def explode(_: "Future[Inference]") -> None:
    raise SystemExit(1)


def test_the_threads_survive_the_callers_callbacks(device: Device) -> None:
    with structlog.testing.capture_logs() as logs, busy(device) as the:
        the.first.add_done_callback(explode)
        futures = [the.submit(1), the.submit(2), the.submit(3, mode=RAISES), the.submit(4)]
        for future in futures:
            future.add_done_callback(explode)
        the.release()
        assert isinstance(futures[2].exception(ENOUGH_S), InferenceFailed)
        assert numbers([futures[0], futures[1], futures[3]]) == [1, 2, 4]
        assert numbers([the.submit(5)]) == [5]
    assert [entry["event"] for entry in logs].count("a callback failed") == 5


# Callers


def test_a_callback_may_ask_again_on_any_thread(device: Device) -> None:
    with bench(device, [Probe(device)], NetworkLimits(1, 0.0)) as the:
        again: Future[Future[Inference]] = Future()

        def ask(_: "Future[Inference]") -> None:
            thread = threading.Thread(target=lambda: again.set_result(the.submit(2)))
            thread.start()
            thread.join(ENOUGH_S)
            assert not thread.is_alive()

        the.submit(1).add_done_callback(ask)
        assert numbers([again.result(ENOUGH_S / 2)]) == [2]


def test_callers_on_several_event_loops(device: Device) -> None:
    session = Probe(device).hold()
    answers: dict[int, list[int]] = {}

    with bench(device, [session]) as the:

        async def ask(loop: int) -> list[int]:
            calls = [asyncio.wrap_future(the.submit(10 * loop + n)) for n in range(10)]
            return [int(answer.foreground[0, 0]) for answer in await asyncio.gather(*calls)]

        def work(loop: int) -> None:
            answers[loop] = asyncio.run(ask(loop))

        the.start(99)
        threads = [threading.Thread(target=work, args=(loop,)) for loop in range(3)]
        for thread in threads:
            thread.start()
        the.release()
        for thread in threads:
            thread.join(ENOUGH_S)
    assert answers == {loop: [10 * loop + n for n in range(10)] for loop in range(3)}


def test_a_cancelled_task_takes_its_request_along(device: Device) -> None:
    with busy(device) as the:

        async def give_up() -> None:
            call = asyncio.wrap_future(the.submit(1))
            assert the.waiting("net") == 1
            call.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        asyncio.run(give_up())
        assert the.waiting("net") == 0
        the.release()
        assert numbers([the.submit(2)]) == [2]
    assert device.ran == [[0], [2]]


# The end


def test_close_drops_what_waits_and_waits_for_what_runs(device: Device) -> None:
    with busy(device) as the:
        waiting = [the.submit(1), the.submit(2)]
        closers = [threading.Thread(target=the.batcher.close) for _ in range(3)]
        for closer in closers:
            closer.start()
        done, _ = wait(waiting, ENOUGH_S)
        assert done == set(waiting)
        assert all(future.cancelled() for future in waiting)
        assert the.waiting("net") == 0
        assert not the.first.done()
        assert all(closer.is_alive() for closer in closers)
        with pytest.raises(RuntimeError, match="closed"):
            the.submit(3)
        the.release()
        assert numbers([the.first]) == [0]
        for closer in closers:
            closer.join(ENOUGH_S)
            assert not closer.is_alive()
        the.batcher.close()
    assert device.ran == [[0]]


def test_nothing_starts_while_close_drops_what_waits(device: Device) -> None:
    with busy(device) as the:
        futures = [the.submit(n) for n in (1, 2, 3)]

        def end_the_run(_: "Future[Inference]") -> None:
            the.release()
            wait([the.first], ENOUGH_S)

        futures[0].add_done_callback(end_the_run)
        the.batcher.close()
        assert all(future.cancelled() for future in futures)
    assert device.ran == [[0]]


def test_close_ends_the_threads(device: Device) -> None:
    def engine_threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("engine-")}

    before = engine_threads()
    with bench(device, [Probe(device)], runs=3):
        assert sorted(thread.name for thread in engine_threads() - before) == ["engine-0", "engine-1", "engine-2"]
    assert engine_threads() <= before


def test_close_within_a_callback(device: Device) -> None:
    closed = threading.Event()
    with busy(device) as the:
        waiting = the.submit(1)

        def close(_: "Future[Inference]") -> None:
            the.batcher.close()
            closed.set()

        the.first.add_done_callback(close)
        waiting.add_done_callback(close)
        the.release()
        assert numbers([the.first]) == [0]
        assert closed.wait(ENOUGH_S)


def test_a_callback_that_explodes_keeps_no_one_from_being_dropped(device: Device) -> None:
    with structlog.testing.capture_logs() as logs, busy(device) as the:
        futures = [the.submit(n) for n in range(1, 5)]
        for future in futures:
            future.add_done_callback(explode)
        closer = threading.Thread(target=the.batcher.close)
        closer.start()
        done, _ = wait(futures, ENOUGH_S)
        assert len(done) == 4
        the.release()
        closer.join(ENOUGH_S)
    assert len(logs) == 4


# What it is made of


@pytest.mark.parametrize("limits", [NetworkLimits(0, 1.0), NetworkLimits(1, 1.0, max_failures=0)])
def test_nonsense_is_refused(device: Device, limits: NetworkLimits) -> None:
    with pytest.raises(ValueError, match="least"):
        Network([Probe(device)], limits)
    with pytest.raises(ValueError, match="session"):
        Network([], ROOMY)
    with pytest.raises(ValueError, match="least"):
        Batcher(0, Bench(device, [], {}).note_failing)


def test_a_session_can_be_run_without_a_batcher(device: Device) -> None:
    answers = run_session(Probe(device, cost_s=2.0), [photo(1), photo(2)], [frozenset(), frozenset({0})])
    assert [(int(a.foreground[0, 0]), a.batch_size, a.infer_s) for a in answers] == [(1, 2, 2.0), (2, 2, 2.0)]
    with pytest.raises(InferenceFailed, match="on fire"):
        run_session(Probe(device), [photo(1, RAISES)], [frozenset()])


# Any order of events


@dataclass(frozen=True)
class Ask:
    network: str
    shape: tuple[int, int]
    kept: frozenset[int]
    mode: int
    patience_s: float | None


@dataclass(frozen=True)
class Cancel:
    which: int


@dataclass(frozen=True)
class Step:
    """Lets one of the runs end."""

    which: int


@dataclass(frozen=True)
class Advance:
    seconds: float


@dataclass
class Asked:
    ask: Ask
    number: int
    queued_s: float
    future: "Future[Inference]"

    def expired(self, now: float) -> bool:
        return self.ask.patience_s is not None and now >= self.queued_s + self.ask.patience_s

    @property
    def pending(self) -> bool:
        return not self.future.done() and not self.future.running()


NETWORKS = ("one", "two", "salient")
MODES = st.sampled_from([GOOD] * 8 + POISON)
KEPT = st.frozensets(st.integers(0, 2))
SHAPES = st.sampled_from([SMALL, SMALL, WIDE, TALL])
INDEX = st.integers(0, 100)
NEVER = 10**9  # failures in a row: sessions that fail are the subject of test_failures.py


def asks(patience_s: list[float | None]) -> st.SearchStrategy[Ask]:
    return st.builds(Ask, st.sampled_from(NETWORKS), SHAPES, KEPT, MODES, st.sampled_from(patience_s))


KINDS: dict[str, st.SearchStrategy[Ask | Cancel | Step | Advance]] = {
    "ask": asks([None, None, None, 0.0, 1.0, 4.0]),
    "cancel": st.builds(Cancel, INDEX),
    "step": st.builds(Step, INDEX),
    "advance": st.builds(Advance, st.sampled_from([0.5, 1.0, 3.0])),
}
# Photos come far more often than runs end, so that queues grow.
EVENT = st.sampled_from(["ask"] * 12 + ["step"] * 4 + ["cancel", "advance"]).flatmap(lambda kind: KINDS[kind])
EVENTS = st.lists(EVENT, min_size=40, max_size=80)
LIMITS = st.fixed_dictionaries(
    {
        name: st.builds(NetworkLimits, st.integers(1, 4), st.sampled_from([0.0, 2.0, 100.0]), st.just(NEVER))
        for name in NETWORKS
    }
)


def probes(device: Device) -> list[Probe]:
    """Sessions of three networks: one with one session, one with two, and a saliency network."""
    return [Probe(device, "one"), Probe(device, "two"), Probe(device, "two"), Probe(device, "salient", saliency=True)]


class Play:
    """Plays events one by one on a device whose runs are all held, and checks the queues after each."""

    def __init__(self, the: Bench, sessions: list[Probe], limits: Mapping[str, NetworkLimits]) -> None:
        self.the, self.device, self.sessions, self.limits = the, the.device, sessions, limits
        self.asked: list[Asked] = []
        self.device.check = self._check_batch

    def play(self, event: Ask | Cancel | Step | Advance) -> None:
        match event:
            case Ask():
                self._ask(event)
            case Cancel():
                self._cancel(event.which)
            case Step():
                self._step(event.which)
            case Advance():
                advance(self.device, event.seconds)
        self._settle()
        self._check()

    def pending(self, name: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.ask.network == name and asked.pending]

    def alive(self, name: str) -> list[Asked]:
        return [asked for asked in self.pending(name) if not asked.expired(now_s(self.device))]

    def _could_start(self, name: str) -> bool:
        replicas = sum(session.spec.name == name for session in self.sessions)
        busy = sum(batch.session.spec.name == name for batch in self.device.inside)
        return len(self.device.inside) < self.device.runs and busy < replicas

    def _ask(self, ask: Ask) -> None:
        name, now = ask.network, now_s(self.device)
        deadline_s = None if ask.patience_s is None else now + ask.patience_s
        image = photo(len(self.asked), ask.mode, ask.shape)
        future = self.the.batcher.submit(self.the.networks[name], image, ask.kept, deadline_s)
        future.add_done_callback(self.device.notice)
        self.asked.append(Asked(ask, len(self.asked), now, future))

    def _cancel(self, which: int) -> None:
        if self.asked:
            asked = self.asked[which % len(self.asked)]
            possible = asked.pending or asked.future.cancelled()
            assert asked.future.cancel() == possible

    def _step(self, which: int) -> None:
        if not self.device.inside:
            return
        ending = self.device.inside[which % len(self.device.inside)]
        before, queues = len(self.device.batches), {name: self.alive(name) for name in NETWORKS}
        ending.session.step()
        done, _ = wait([self.asked[number].future for number in ending.numbers], ENOUGH_S)
        assert len(done) == len(ending.numbers)
        self._settle()
        started = [batch for batch in self.device.batches[before:] if batch in self.device.inside]
        assert len(started) <= 1
        for batch in started:
            queue = queues[batch.session.spec.name]
            assert batch.numbers == self._choice(queue, self.limits[batch.session.spec.name])

    def _choice(self, queue: list[Asked], limits: NetworkLimits) -> list[int]:
        """The numbers of the photos of one network that must go next."""
        shapes = [asked.ask.shape for asked in queue]
        if now_s(self.device) - queue[0].queued_s > limits.passed_over_s:
            shape = shapes[0]
        else:
            most = max(min(shapes.count(shape), limits.max_batch) for shape in shapes)
            shape = next(shape for shape in shapes if min(shapes.count(shape), limits.max_batch) == most)
        return [asked.number for asked in queue if asked.ask.shape == shape][: limits.max_batch]

    def _settle(self) -> None:
        """Waits until each chosen request is in a session, and each other one that left a queue has ended."""

        def settled() -> bool:
            inside = sum(len(batch.numbers) for batch in self.device.inside)
            return inside == sum(asked.future.running() for asked in self.asked)

        self.device.until(settled)

    def _check(self) -> None:
        for name in NETWORKS:
            waiting = len(self.pending(name))
            assert self.the.waiting(name) == waiting
            assert not (waiting and self._could_start(name)), "a free device waits"

    def _check_batch(self, batch: Batch) -> str:
        """The problem with a batch that is about to run, called on the batcher's threads; "" if there is none."""
        first_time = [n for n in batch.numbers if n < len(self.asked) and not self.asked[n].future.running()]
        if first_time:
            return f"{first_time} ran, though no longer wanted"
        expired = [n for n in batch.numbers if n < len(self.asked) and self.asked[n].expired(now_s(self.device))]
        if expired:
            return f"{expired} ran, though expired"
        if len(batch.numbers) > self.limits[batch.session.spec.name].max_batch:
            return f"a batch of {len(batch.numbers)}"
        return ""


def check_outcomes(asked: list[Asked], device: Device) -> None:
    """Checks the outcome of every request, in any order of events."""
    together = {number for numbers in device.ran if len(numbers) > 1 for number in numbers}
    ran = {number for numbers in device.ran for number in numbers}
    for one in asked:
        assert one.future.done()
        if one.future.cancelled():
            assert one.number not in ran
            continue
        error = one.future.exception()
        if isinstance(error, DeadlineExceeded):
            # A batch may fail after the deadline of one of its photos, which then isn't tried again.
            assert one.ask.patience_s is not None
            assert one.number not in ran or one.number in together
        elif error:
            assert isinstance(error, InferenceFailed)
            assert one.ask.mode != GOOD
        else:
            assert one.ask.mode == GOOD
            check_answer(one, one.future.result())


def check_answer(one: Asked, answer: Inference) -> None:
    assert answer.foreground.shape == one.ask.shape
    assert (answer.foreground == one.number).all()
    if one.ask.network == "salient":
        assert answer.classes is None
    else:
        assert answer.classes is not None
        assert answer.classes.shape == one.ask.shape
        assert (answer.classes == code(one.ask.kept)).all()


@given(events=EVENTS, limits=LIMITS, runs=st.integers(1, 3))
@settings(deadline=None, max_examples=100)
def test_any_order_of_events(
    events: list[Ask | Cancel | Step | Advance], limits: dict[str, NetworkLimits], runs: int
) -> None:
    device = Device(Clock())
    sessions = [session.hold() for session in probes(device)]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("batcher", "turn", "inference"):
            patch.setattr(f"mattebox_server.engine.{module}.time", SimpleNamespace(monotonic=device.clock))
        with bench(device, sessions, limits, runs) as the:
            play = Play(the, sessions, limits)
            for event in events:
                play.play(event)
            for session in sessions:
                session.open()
            wait([asked.future for asked in play.asked], ENOUGH_S)
        check_outcomes(play.asked, device)


# Many threads at once


@st.composite
def crowds(draw: st.DrawFn) -> list[list[tuple[Ask, bool]]]:
    """For each thread, the photos that it submits, and whether it then cancels an earlier one."""
    patience_s = [None, None, None, -1.0, 0.0003, 0.002, 60.0]
    return draw(
        st.lists(st.lists(st.tuples(asks(patience_s), st.booleans()), min_size=20, max_size=50), min_size=2, max_size=4)
    )


@given(crowd=crowds(), limits=LIMITS, runs=st.integers(1, 4), fails_from=st.sampled_from([2, 3, 1000]))
@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])  # threads can't be shrunk
def test_a_crowd(
    crowd: list[list[tuple[Ask, bool]]], limits: dict[str, NetworkLimits], runs: int, fails_from: int
) -> None:
    device = Device()
    sessions = probes(device)
    for session in sessions:
        session.nap_s = 0.0003  # lets the other threads in
        session.fails_from = fails_from  # larger batches fail, but of their photos only the bad ones
    device.check = lambda batch: (
        "" if len(batch.numbers) <= limits[batch.session.spec.name].max_batch else "too many in a batch"
    )
    numbers, asked = itertools.count(), list[Asked]()

    def work(plan: list[tuple[Ask, bool]]) -> None:
        mine: list[Asked] = []
        for ask, gives_up in plan:
            number = next(numbers)
            now = monotonic()
            deadline_s = None if ask.patience_s is None else now + ask.patience_s
            image = photo(number, ask.mode, ask.shape)
            future = the.batcher.submit(the.networks[ask.network], image, ask.kept, deadline_s)
            mine.append(Asked(ask, number, now, future))
            if gives_up:
                mine[len(mine) // 2].future.cancel()
        asked.extend(mine)

    with bench(device, sessions, limits, runs) as the:
        threads = [threading.Thread(target=work, args=(plan,)) for plan in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ENOUGH_S)
        assert next(numbers) == sum(len(plan) for plan in crowd)
        _, late = wait([one.future for one in asked], ENOUGH_S)
        assert not late
        assert all(the.waiting(name) == 0 for name in NETWORKS)
    check_outcomes(asked, device)
