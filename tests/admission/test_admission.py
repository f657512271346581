"""Whose turn it is, who is refused and who waits: lanes with a clock of their own, budgets, and the pace."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mattebox_server.admission.admission import Admission, Origin
from mattebox_server.admission.budget import Budget
from mattebox_server.admission.lane import Lane, LaneLimits
from mattebox_server.admission.pace import Pace
from mattebox_server.errors import DeadlineExceeded, Overloaded


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Desk:
    """Requests of many callers in one lane, each held until the test ends it."""

    def __init__(self, max_active: int = 1, max_queue: int = 10, max_wait_s: float = 1000.0) -> None:
        self.clock = Clock()
        self.lane = Lane(LaneLimits(max_active, max_queue, max_wait_s), self.clock)
        self.started: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, deadline_s: float | None = None) -> asyncio.Task[None]:
        """The first letter of the name is the caller. Returns when the request holds a turn, waits or has failed."""

        async def request() -> None:
            async with self.lane.turn(name[0], deadline_s):
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
    for stage in (lane.pace.prepare_s, lane.pace.infer_s, lane.pace.finish_s):
        lane.pace.record(stage, each_s / 3)
    lane.pace.interval_s.append(interval_s)


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
        desk.lane.check_room("a", None)
        for name in ("a0", "a1", "a2"):
            await desk.ask(name)
        with pytest.raises(Overloaded):
            desk.lane.check_room("a", None)
        desk.lane.check_room("b", None)
        await desk.end_all()
        desk.lane.check_room("a", None)

    run(scenario())


def test_a_deadline_that_can_not_be_met_is_refused_at_once() -> None:
    async def scenario() -> None:
        desk = Desk()
        measured(desk.lane)
        with pytest.raises(DeadlineExceeded):
            desk.lane.check_room("a", desk.clock() + 0.8)
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
        desk.lane.pace.record(desk.lane.pace.infer_s, 0.1, trial=True)
        assert desk.lane.pace.after_prepare_s == pytest.approx(0.09 + 18)
        await desk.end_all()

    run(scenario())


def test_a_trial_is_told_before_the_request_is_received() -> None:
    async def scenario() -> None:
        desk = Desk()
        measured(desk.lane, each_s=60)
        for _ in range(48):
            with pytest.raises(DeadlineExceeded):
                desk.lane.check_room("a", desk.clock() + 1)
        desk.lane.check_room("a", desk.clock() + 1)
        async with desk.lane.turn("a", desk.clock() + 1) as turn:
            assert turn.trial
            assert turn.before(7, turn.pace.whole_s) == 7
        with pytest.raises(DeadlineExceeded):
            desk.lane.check_room("a", desk.clock() + 1)

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
    assert (pace.whole_s, pace.wait_s(3)) == (0, 0)
    for stage, seconds in ((pace.prepare_s, (1, 2)), (pace.infer_s, (2, 3)), (pace.finish_s, (3, 4))):
        for each_s in seconds:
            pace.record(stage, each_s)
    assert pace.whole_s == pytest.approx(0.9 * 6)
    assert pace.after_prepare_s == pytest.approx(0.9 * 5)
    assert pace.after_infer_s == pytest.approx(0.9 * 3)
    assert pace.wait_s(2) == pytest.approx(2 * 0.9 * 6)  # no interval was measured yet
    pace.interval_s.extend([1, 6, 2])
    assert pace.wait_s(2) == 6
    for _ in range(16):
        pace.record(pace.infer_s, 5)
    assert pace.after_prepare_s == pytest.approx(0.9 * 8)
    pace.record(pace.infer_s, 1, trial=True)
    assert pace.after_prepare_s == pytest.approx(0.9 * 4)


def test_a_budget_gives_back_what_was_taken() -> None:
    budget = Budget("bytes", 10)
    with budget.share(4) as share:
        share.take(6)
        with pytest.raises(Overloaded, match="10 bytes in flight, 1 more") as caught:
            share.take(1)
        assert caught.value.limit == "bytes"
        share.become(30)  # an answer is there, whatever its size
        assert budget.held == 30
        share.become(2)
        with pytest.raises(Overloaded), budget.share(9):
            pass
    assert budget.held == 0
    with pytest.raises(DeadlineExceeded):
        share.take(1)
    assert budget.held == 0


def test_there_is_room_while_one_model_has_some() -> None:
    async def scenario() -> None:
        admission = Admission(("x", "y"), LaneLimits(1, 0, 60), 10)
        async with admission.enter("x", Origin("a")) as (_, share):
            share.take(10)
            admission.check_room(Origin("a"))
            async with admission.enter("y", Origin("a")) as (_, other):
                with pytest.raises(Overloaded):
                    other.take(1)
                with pytest.raises(Overloaded):
                    admission.check_room(Origin("b"))
        assert admission.pixels.held == 0
        admission.check_room(Origin("b"))

    run(scenario())
