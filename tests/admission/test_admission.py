"""Whose turn it is, who is refused and who waits: lanes with a clock of their own, budgets, and the pace."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mattebox_server.admission.admission import Admission
from mattebox_server.admission.budget import Budget
from mattebox_server.admission.lane import Lane, Origin, QueueLimits
from mattebox_server.admission.pace import Pace, Part
from mattebox_server.errors import DeadlineExceeded, Overloaded, PhotoTooLarge

PARTS: tuple[Part, ...] = ("prepare", "infer", "finish")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Desk:
    """Requests of many callers in one lane, each held until the test ends it."""

    def __init__(self, max_active: int = 1, max_queue: int = 10, max_wait_s: float = 1000.0) -> None:
        self.clock = Clock()
        self.lane = Lane(QueueLimits(max_active, max_queue, max_wait_s), self.clock)
        self.started: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, deadline_s: float | None = None) -> asyncio.Task[None]:
        """The first letter of the name is the caller. Returns when the request holds a turn, waits or has failed."""

        async def request() -> None:
            origin = Origin(name[0], deadline_s)
            self.lane.note_asking(origin.caller)
            async with self.lane.turn(origin):
                self.started.append(name)
                await self._ends.setdefault(name, asyncio.Event()).wait()

        task = asyncio.create_task(request(), name=name)
        await settle()
        return task

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends.setdefault(name, asyncio.Event()).set()
            await settle()

    async def end_all(self) -> None:
        while running := [name for name in self.started if not self._ends[name].is_set()]:
            await self.end(*running)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def failure(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() else None


def measured(lane: Lane, each_s: float = 1.0, interval_s: float = 1.0) -> None:
    """As if requests had taken so long, in three equal parts."""
    for part in PARTS:
        lane.pace.learn(part, each_s / 3)
    lane.pace.learn_interval(interval_s)


def test_one_request_comes_after_one_of_a_caller_with_many() -> None:
    async def scenario() -> None:
        desk = Desk()
        for name in ("a0", "a1", "a2", "a3", "b0", "c0", "c1"):
            await desk.ask(name)
        await desk.end_all()
        assert desk.started == ["a0", "a1", "b0", "c0", "a2", "c1", "a3"]

    run(scenario())


def test_a_full_queue_drops_the_last_of_whoever_has_most() -> None:
    async def scenario() -> None:
        desk = Desk(max_queue=3)
        tasks = [await desk.ask(name) for name in ("a0", "a1", "a2", "a3")]
        refused = await desk.ask("a4")  # of the caller with most: itself
        assert isinstance(failure(refused), Overloaded)
        welcome = await desk.ask("b0")
        assert failure(welcome) is None
        assert isinstance(failure(tasks[3]), Overloaded)
        assert [failure(task) for task in tasks[:3]] == [None] * 3
        also = await desk.ask("b1")  # one each would not be more for a than for b
        error = failure(also)
        assert isinstance(error, Overloaded)
        assert error.limit == "queue_full"
        await desk.end_all()
        assert desk.started == ["a0", "a1", "b0", "a2"]

    run(scenario())


def test_room_is_known_before_the_request_is_there() -> None:
    async def scenario() -> None:
        desk = Desk(max_queue=2)
        assert desk.lane.refusal(Origin("a")) is None
        for name in ("a0", "a1", "a2"):
            await desk.ask(name)
        refusal = desk.lane.refusal(Origin("a"))
        assert refusal is not None
        assert isinstance(refusal.error, Overloaded)
        assert desk.lane.refusal(Origin("b")) is None
        await desk.end_all()
        assert desk.lane.refusal(Origin("a")) is None

    run(scenario())


def test_a_deadline_that_can_not_be_met_is_refused_at_once() -> None:
    async def scenario() -> None:
        desk = Desk()
        measured(desk.lane)
        refusal = desk.lane.refusal(Origin("a", desk.clock() + 0.8))
        assert refusal is not None
        assert isinstance(refusal.error, DeadlineExceeded)
        alone = await desk.ask("a0", desk.clock() + 0.8)
        assert isinstance(failure(alone), DeadlineExceeded)
        fine = await desk.ask("a1", desk.clock() + 1.1)
        assert failure(fine) is None
        behind = await desk.ask("b0", desk.clock() + 1.8)  # one second of waiting, one of work
        error = failure(behind)
        assert isinstance(error, Overloaded)
        assert error.limit == "deadline"
        assert error.retry_after_s == pytest.approx(1)
        assert failure(await desk.ask("b1", desk.clock() + 2.1)) is None
        gone = await desk.ask("c0", desk.clock() - 1)
        assert isinstance(failure(gone), DeadlineExceeded)
        await desk.end_all()

    run(scenario())


def test_what_waited_too_long_for_its_deadline_gets_no_turn() -> None:
    async def scenario() -> None:
        desk = Desk()
        measured(desk.lane)
        await desk.ask("a0")
        late, patient = await desk.ask("b0", desk.clock() + 3), await desk.ask("c0")
        desk.clock.now_s += 2.5
        await desk.end("a0")
        assert isinstance(failure(late), DeadlineExceeded)
        assert desk.started == ["a0", "c0"]
        await desk.end("c0")
        assert failure(patient) is None

    run(scenario())


def test_a_wait_over_the_limit_is_refused_with_the_time_that_is_over() -> None:
    async def scenario() -> None:
        desk = Desk(max_wait_s=2.5)
        measured(desk.lane)
        tasks = [await desk.ask(name) for name in ("a0", "a1", "a2", "a3")]
        error = failure(tasks[3])
        assert isinstance(error, Overloaded)
        assert error.limit == "queue_wait"
        assert error.retry_after_s == pytest.approx(0.5)
        assert failure(await desk.ask("b0")) is None  # its turn comes sooner
        await desk.end_all()

    run(scenario())


def test_a_place_far_back_is_given_only_if_others_leave_it() -> None:
    """Whoever asked lately may ask again, and then comes in between."""

    async def scenario() -> None:
        desk = Desk(max_wait_s=4.5)
        measured(desk.lane)
        for name in ("b0", "c0", "a0", "a1"):  # b0 runs; c0, a0, and before a1 what b and c may ask
            await desk.ask(name)
        assert isinstance(failure(await desk.ask("a2")), Overloaded)  # four seconds, but seven if b and c ask again
        desk.clock.now_s += 3
        assert failure(await desk.ask("a3")) is None  # they didn't
        await desk.end_all()

    run(scenario())


def test_a_server_that_was_slow_once_does_not_refuse_for_ever() -> None:
    async def scenario() -> None:
        desk = Desk()
        measured(desk.lane, each_s=60)
        outcomes = [failure(await desk.ask(f"a{n}", desk.clock() + 1)) for n in range(60)]
        assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, DeadlineExceeded)] == [48]
        desk.lane.pace.learn("infer", 0.1, alone=True)
        assert desk.lane.pace.least_s("infer") == pytest.approx(0.09 + 18)
        await desk.end_all()

    run(scenario())


def test_a_trial_is_let_in_before_the_request_is_received() -> None:
    async def scenario() -> None:
        admission = Admission(("x",), QueueLimits(1, 9, 60), 10)
        lane = admission.lanes["x"]
        measured(lane, each_s=60)
        origin = Origin("a", time.monotonic() + 1)
        for _ in range(48):
            with pytest.raises(DeadlineExceeded), admission.entry(origin):
                pass
        with admission.entry(origin) as entry:
            with pytest.raises(DeadlineExceeded), admission.entry(origin):  # there is one trial at a time
                pass
            async with admission.turn("x", entry) as turn:
                assert turn.is_trial
                assert turn.latest_start_s("prepare") == origin.deadline_s
                turn.learn("infer", 1)
        assert lane.pace.least_s("infer") == pytest.approx(0.9 * (1 + 20))
        with pytest.raises(DeadlineExceeded), admission.entry(origin):
            pass

    run(scenario())


def test_a_trial_is_not_used_up_by_a_request_that_never_gets_a_turn() -> None:
    """The photo of the first one is no photo: the next one measures in its place."""

    async def scenario() -> None:
        admission = Admission(("x", "y"), QueueLimits(1, 9, 60), 10)
        for lane in admission.lanes.values():
            measured(lane, each_s=60)
        origin = Origin("a", time.monotonic() + 1)
        for number in range(2450):
            caller = Origin(f"caller {number}", origin.deadline_s)
            with contextlib.suppress(DeadlineExceeded), admission.entry(caller) as entry:
                assert number >= 48
                assert entry.trials == {"x", "y"}
        with admission.entry(origin) as entry:
            async with admission.turn("x", entry) as turn:
                assert turn.is_trial
        with admission.entry(origin) as entry:  # y lets in its trial, x has had one
            assert entry.trials == {"y"}
            async with admission.turn("y", entry) as turn:
                assert turn.is_trial

    run(scenario())


def test_a_request_for_one_model_does_not_spend_the_trial_of_another() -> None:
    async def scenario() -> None:
        admission = Admission(("slow", "fast"), QueueLimits(1, 9, 60), 10)
        measured(admission.lanes["slow"], each_s=60)
        origin = Origin("a", time.monotonic() + 1)
        for _ in range(200):
            with admission.entry(origin) as entry:
                assert entry.trials == frozenset()
                async with admission.turn("fast", entry) as turn:
                    assert not turn.is_trial
        refused = 0
        for _ in range(49):  # the refusals for the slow model are counted where its requests ask
            try:
                with admission.entry(origin) as entry:
                    async with admission.turn("slow", entry) as turn:
                        assert turn.is_trial
            except DeadlineExceeded:
                refused += 1
        assert refused == 48

    run(scenario())


@pytest.mark.parametrize("when", ["waiting", "chosen"])
def test_who_goes_away_leaves_no_gap(when: str) -> None:
    async def scenario() -> None:
        desk = Desk()
        await desk.ask("a0")
        gone = await desk.ask("b0")
        await desk.ask("c0")
        if when == "chosen":  # its turn comes, and before it runs it is cancelled
            desk._ends.setdefault("a0", asyncio.Event()).set()  # pyright: ignore[reportPrivateUsage]
            for _ in range(3):
                gone.cancel()
                await asyncio.sleep(0)
        gone.cancel()
        await settle()
        assert gone.cancelled()
        await desk.end("a0")
        await desk.end_all()
        assert desk.started == ["a0", "c0"]
        assert (desk.lane.active, desk.lane.waiting) == (0, 0)

    run(scenario())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc"), st.one_of(st.none(), st.floats(-1, 5))),
        st.tuples(st.just("end"), st.integers(0, 9), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.none()),
        st.tuples(st.just("pass"), st.floats(0, 3), st.none()),
    ),
    max_size=40,
)


@given(steps=STEPS, max_active=st.integers(1, 3), max_queue=st.integers(0, 4), slow=st.booleans())
@settings(deadline=None, max_examples=200)
def test_every_request_ends_once_and_every_turn_comes_back(
    steps: list[tuple[Any, Any, Any]], max_active: int, max_queue: int, slow: bool
) -> None:
    async def scenario() -> None:
        desk = Desk(max_active, max_queue)
        if slow:
            measured(desk.lane, 0.5, 0.5)
        tasks: list[asyncio.Task[None]] = []
        for number, (step, what, deadline_s) in enumerate(steps):
            if step == "ask":
                until_s = None if deadline_s is None else desk.clock() + deadline_s
                tasks.append(await desk.ask(f"{what}{number}", until_s))
            elif step == "end" and desk.started:
                await desk.end(desk.started[int(what) % len(desk.started)])
            elif step == "cancel" and tasks:
                tasks[int(what) % len(tasks)].cancel()
                await settle()
            elif step == "pass":
                desk.clock.now_s += what
            pending = sum(not task.done() for task in tasks)
            assert desk.lane.active <= max_active
            assert desk.lane.waiting <= max_queue
            assert desk.lane.active + desk.lane.waiting == pending
            assert not desk.lane.waiting or desk.lane.active == max_active
        await desk.end_all()
        await settle()
        assert all(task.done() for task in tasks)
        assert (desk.lane.active, desk.lane.waiting) == (0, 0)

    run(scenario())


def test_the_pace_is_what_was_measured_lately() -> None:
    pace = Pace()
    assert (pace.least_s(), pace.wait_s(3)) == (0, 0)
    measured_s = {"prepare": (1, 2), "infer": (2, 3), "finish": (3, 4)}
    for part in PARTS:
        for each_s in measured_s[part]:
            pace.learn(part, each_s)
    assert pace.least_s() == pytest.approx(0.9 * 6)
    assert pace.least_s("infer") == pytest.approx(0.9 * 5)
    assert pace.least_s("finish") == pytest.approx(0.9 * 3)
    assert pace.wait_s(2) == pytest.approx(2 * 0.9 * 6)  # no interval was measured yet
    for interval_s in (1, 6, 2):
        pace.learn_interval(interval_s)
    assert pace.wait_s(2) == 6
    for _ in range(16):
        pace.learn("infer", 5)
    assert pace.least_s("infer") == pytest.approx(0.9 * 8)
    pace.learn("infer", 1, alone=True)
    assert pace.least_s("infer") == pytest.approx(0.9 * 4)


def test_the_backlog_is_that_of_all_callers() -> None:
    """A newcomer would wait for one turn, however many requests another caller has."""

    async def scenario() -> None:
        desk = Desk()
        measured(desk.lane)
        assert desk.lane.backlog_s == 0
        await desk.ask("a0")
        assert desk.lane.backlog_s == 0  # nothing waits
        for number in range(1, 9):
            await desk.ask(f"a{number}")
        assert desk.lane.backlog_s == pytest.approx(9)
        assert desk.lane.predicted_wait_s() == pytest.approx(2)
        await desk.end_all()

    run(scenario())


def test_a_budget_gets_back_what_was_taken() -> None:
    budget = Budget(10)
    with budget.share() as share:
        share.take(4)
        share.take(6)
        with budget.share() as other:
            with pytest.raises(Overloaded, match="hold 10 bytes of memory, the limit is 10") as caught:
                other.take(1)
            assert caught.value.limit == "memory"
            share.become(30)  # an answer is there, whatever its size
            assert budget.held_bytes == 30
            share.become(2)
            other.take(8)
        with pytest.raises(PhotoTooLarge, match="raw: 11 bytes of memory are needed, the server has 10"):
            share.take(9, "raw")
        assert budget.held_bytes == 2
    assert budget.held_bytes == 0


def test_there_is_room_while_one_model_has_some() -> None:
    async def scenario() -> None:
        admission = Admission(("x", "y"), QueueLimits(1, 0, 60), 10)
        with admission.entry(Origin("a")) as one, admission.entry(Origin("a")) as two:
            async with admission.turn("x", one):
                one.memory.take(10)
                with admission.entry(Origin("b")):
                    pass
                async with admission.turn("y", two):
                    with pytest.raises(Overloaded):
                        two.memory.take(1)
                    with pytest.raises(Overloaded), admission.entry(Origin("b")):
                        pass
        assert admission.memory.held_bytes == 0
        with admission.entry(Origin("b")):
            pass

    run(scenario())
