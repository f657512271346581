"""The requests for one model: those that are worked on, and those that wait, callers in turn.

Only as many are worked on as keep the pixel threads and the network busy. The others wait as they came, undecoded, so
that they cost little, can be dropped at no cost, and one caller with a thousand requests delays another's only one by
one turn. All of it runs on one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mattebox_server.admission.pace import Pace
from mattebox_server.errors import DeadlineExceeded, Overloaded

_LEAST_RETRY_S = 0.05
_RECENT_S = 2.0  # who asked within this time is expected to ask again


@dataclass(frozen=True)
class LaneLimits:
    """Of one model.

    Args:
        max_active: requests that are worked on at once.
        max_queue: requests that wait.
        max_wait_s: longest predicted wait; who would wait longer is refused.
    """

    max_active: int
    max_queue: int
    max_wait_s: float


@dataclass(frozen=True)
class Turn:
    """A request's turn.

    Args:
        pace: what is to be expected.
        trial: nothing is, this request is there to measure it.
    """

    pace: Pace
    trial: bool

    def before(self, deadline_s: float | None, needed_s: float) -> float | None:
        """When a stage must have begun, if that many seconds are needed from there to the deadline."""
        return None if deadline_s is None else deadline_s - (0 if self.trial else needed_s)

    def record(self, stage: deque[float], seconds: float) -> None:
        """See `Pace.record`."""
        self.pace.record(stage, seconds, self.trial)


@dataclass(frozen=True, eq=False)
class _Waiting:
    caller: str
    deadline_s: float | None
    trial: bool
    turn: asyncio.Future[None]


class Lane:
    """See above.

    Args:
        limits: of the model.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, limits: LaneLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = Pace()
        self._limits, self._clock = limits, clock
        self._queues: dict[str, deque[_Waiting]] = {}  # of each caller that waits, the one whose turn is next first
        self._waiting = self._active = 0
        self._ended_s: float | None = None  # when the last request ended, if others waited then
        self._asked_s: dict[str, float] = {}  # when each caller asked last, the longest ago first
        self._trials: set[str] = set()  # callers whose request is on its way in and is let try

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    @property
    def active(self) -> int:
        """Requests that are worked on."""
        return self._active

    def predicted_wait_s(self, caller: str = "") -> float:
        """Seconds that a new request of this caller would wait if nobody else asked from now on."""
        if self._is_free():
            return 0.0
        own = len(self._queues.get(caller, ()))
        others = sum(min(len(queue), own + 1) for name, queue in self._queues.items() if name != caller)
        return self.pace.wait_s(own + others + 1)

    def _longest_wait_s(self, caller: str) -> float:
        """Seconds that it would wait if all who asked lately did so again.

        Others can only get in between a caller's own requests: its first one waits for those who wait already.
        """
        now_s, own = self._clock(), len(self._queues.get(caller, ()))
        self._asked_s.pop(caller, None)
        self._asked_s[caller] = now_s
        while now_s - next(iter(self._asked_s.values())) > _RECENT_S:
            del self._asked_s[next(iter(self._asked_s))]
        likely_s = self.predicted_wait_s(caller)
        if likely_s == 0 or own == 0:
            return likely_s
        return max(likely_s, self.pace.wait_s(own + (own + 1) * (len(self._asked_s) - 1) + 1))

    def check_room(self, caller: str, deadline_s: float | None) -> None:
        """Raises what `turn` would raise at once."""
        if not self._is_in_time(caller, deadline_s):
            self._trials.add(caller)
        if not self._is_free() and self._waiting >= self._limits.max_queue:
            self._greediest_but(caller)

    @asynccontextmanager
    async def turn(self, caller: str, deadline_s: float | None) -> AsyncGenerator[Turn]:
        """Waits for a turn and holds it until the block ends.

        Args:
            caller: who asks; callers are served in turn.
            deadline_s: on the lane's clock; None means never.

        Raises:
            Overloaded: the queue is full, or the wait would be too long for the server or for the deadline.
            DeadlineExceeded: the deadline passed, or can't be met even without a wait.
        """
        trial = await self._take_turn(caller, deadline_s)
        try:
            yield Turn(self.pace, trial)
        finally:
            self._end_turn()

    async def _take_turn(self, caller: str, deadline_s: float | None) -> bool:
        trial = caller in self._trials  # it was asked before, and looked at then
        self._trials.discard(caller)
        trial = trial or not self._is_in_time(caller, deadline_s)
        if self._is_free():
            self._active += 1
            return trial
        if self._waiting >= self._limits.max_queue:
            self._make_room(caller)
        waiting = _Waiting(caller, deadline_s, trial, asyncio.get_running_loop().create_future())
        self._queues.setdefault(caller, deque()).append(waiting)
        self._waiting += 1
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._remove(waiting)
            elif waiting.turn.exception() is None:  # its turn had come in the same moment
                self._end_turn()
            raise
        return trial

    def _is_in_time(self, caller: str, deadline_s: float | None) -> bool:
        """False for a request that is not, but is let try. Raises Overloaded or DeadlineExceeded for others."""
        wait_s = self._longest_wait_s(caller)
        if wait_s > self._limits.max_wait_s:
            what = f"a wait of {wait_s:.1f} s is over the limit of {self._limits.max_wait_s:g} s"
            raise Overloaded(what, wait_s - self._limits.max_wait_s, "queue_wait")
        if deadline_s is None:
            return True
        left_s = deadline_s - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the request was taken up")
        needed_s, wait_s = self.pace.whole_s, self.predicted_wait_s(caller)
        if left_s >= wait_s + needed_s:
            return True
        if self.pace.is_trial():
            return False
        what = f"{left_s:.3f} s are left, and {needed_s:.3f} s is the least that it takes"
        if left_s < needed_s:
            raise DeadlineExceeded(what)
        raise Overloaded(f"{what}, after a wait of {wait_s:.3f} s", wait_s, "deadline")

    def _is_free(self) -> bool:
        return self._active < self._limits.max_active and not self._waiting

    def _make_room(self, caller: str) -> None:
        """Drops the last request of whoever has most of them waiting. Raises Overloaded if that is the caller."""
        queue = self._greediest_but(caller)
        last = queue[-1]
        self._remove(last)
        last.turn.set_exception(self._full("others wait who have asked for less", "caller_share"))

    def _greediest_but(self, caller: str) -> deque[_Waiting]:
        """The longest queue, which is longer than the caller's would be. Raises Overloaded if there is none."""
        own = len(self._queues.get(caller, ()))
        longest = max(self._queues.values(), key=len, default=deque[_Waiting]())
        if len(longest) <= own + 1:
            raise self._full("the limit", "queue_full")
        return longest

    def _full(self, why: str, limit: str) -> Overloaded:
        # Half of the queue: who comes back sooner finds it full again, later ones would find it empty.
        retry_s = max(_LEAST_RETRY_S, self.pace.wait_s(self._waiting // 2 + 1))
        return Overloaded(f"{self._waiting} requests wait for this model, {why}", retry_s, limit)

    def _remove(self, waiting: _Waiting) -> None:
        queue = self._queues.get(waiting.caller, deque[_Waiting]())
        if waiting not in queue:  # its turn had come, and was passed on
            return
        queue.remove(waiting)
        self._waiting -= 1
        if not queue:
            del self._queues[waiting.caller]

    def _end_turn(self) -> None:
        now_s = self._clock()
        if self._ended_s is not None:
            self.pace.interval_s.append(now_s - self._ended_s)
        self._ended_s = now_s if self._waiting else None
        self._active -= 1
        while self._waiting and self._active < self._limits.max_active:
            self._start(self._next(), now_s)

    def _next(self) -> _Waiting:
        """The oldest request of the caller whose turn it is, who then goes to the end of the line."""
        caller = next(iter(self._queues))
        queue = self._queues.pop(caller)
        waiting = queue.popleft()
        if queue:
            self._queues[caller] = queue
        self._waiting -= 1
        return waiting

    def _start(self, waiting: _Waiting, now_s: float) -> None:
        if waiting.turn.done():  # cancelled in this very moment
            return
        needed_s = 0 if waiting.trial else self.pace.whole_s
        if waiting.deadline_s is not None and now_s + needed_s > waiting.deadline_s:
            waiting.turn.set_exception(DeadlineExceeded("the deadline can't be met any more after the wait"))
            return
        self._active += 1
        waiting.turn.set_result(None)
