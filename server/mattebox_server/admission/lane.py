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

from mattebox_server.admission.pace import Pace, Part
from mattebox_server.errors import DeadlineExceeded, MatteboxError, Overloaded

_LEAST_RETRY_S = 0.05
_RECENT_S = 2.0  # who asked within this time is expected to ask again
# Refused requests measure nothing. After so many in a row a request is let in whose measurements replace all others,
# so that a server which was slow once doesn't refuse for ever.
_REFUSALS_BEFORE_TRIAL = 48


@dataclass(frozen=True)
class QueueLimits:
    """The bounds of one model's queue.

    Args:
        max_active: the number of requests that are worked on at once.
        max_queue: the number of requests that wait.
        max_wait_s: the longest predicted wait; a request that would wait longer is refused.
    """

    max_active: int
    max_queue: int
    max_wait_s: float


@dataclass(frozen=True)
class Origin:
    """Where a request comes from and when its answer is due.

    Args:
        caller: the name of the caller's token, or of the caller behind a trusted proxy, or else the connection;
            callers are served in turn.
        deadline_s: the moment when the answer is due, on the clock of `time.monotonic`; None means never.
    """

    caller: str = ""
    deadline_s: float | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a lane takes no request now. A guess rests on measurements alone, which may be old."""

    error: MatteboxError
    is_guess: bool = False


@dataclass(frozen=True)
class Turn:
    """A request's turn: it may be worked on until the turn ends. A trial trusts no old measurement."""

    origin: Origin
    pace: Pace
    is_trial: bool

    def latest_start_s(self, part: Part) -> float | None:
        """The moment after which it makes no sense to begin a part: the deadline could not be met any more."""
        if self.origin.deadline_s is None:
            return None
        return self.origin.deadline_s - (0 if self.is_trial else self.pace.least_s(part))

    def learn(self, part: Part, seconds: float) -> None:
        """Takes in how long a part took."""
        self.pace.learn(part, seconds, alone=self.is_trial)


@dataclass(frozen=True, eq=False)
class _Waiting:
    origin: Origin
    is_trial: bool
    turn: asyncio.Future[None]


class Lane:
    """The queue of one model.

    Args:
        limits: the bounds of the queue.
        clock: gives seconds, as `time.monotonic`.

    Attributes:
        pace: what the model's requests took lately.
        waiting: the number of requests in the queue.
        active: the number of requests that are worked on.
    """

    def __init__(self, limits: QueueLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = Pace()
        self._limits, self._clock = limits, clock
        self._queues: dict[str, deque[_Waiting]] = {}  # of each caller that waits, the one whose turn is next first
        self.waiting = self.active = 0
        self._ended_s: float | None = None  # when the last request ended, if others waited then
        self._asked_s: dict[str, float] = {}  # when each caller asked last, the longest ago first
        self._guessed_refusals = 0  # in a row, since the last trial
        self._trial_is_out = False

    @property
    def backlog_s(self) -> float:
        """The seconds until all requests that are here now have ended; 0 if none waits."""
        return self.pace.wait_s(self.active + self.waiting) if self.waiting else 0.0

    def predicted_wait_s(self, caller: str = "") -> float:
        """The seconds that a new request of this caller would wait if nobody else asked from now on."""
        if self._is_free():
            return 0.0
        own = len(self._queues.get(caller, ()))
        others = sum(min(len(queue), own + 1) for name, queue in self._queues.items() if name != caller)
        return self.pace.wait_s(own + others + 1)

    def note_asking(self, caller: str) -> None:
        """Remembers for two seconds that a caller asks: its next requests may come before those of others."""
        now_s = self._clock()
        self._asked_s.pop(caller, None)
        self._asked_s[caller] = now_s
        while now_s - next(iter(self._asked_s.values())) > _RECENT_S:
            del self._asked_s[next(iter(self._asked_s))]

    def refusal(self, origin: Origin) -> Refusal | None:
        """Why a request from there would be refused now; None if it would be taken. Changes nothing."""
        return self._too_long(origin) or self._too_late(origin) or self._too_many(origin)

    def claim_trial(self, origin: Origin, refusal: Refusal) -> bool:
        """Counts a refusal; True if the request is to be let in all the same, to measure anew.

        Only one such request is on its way at a time: `end_trial` says that it has ended, or has gone elsewhere.
        """
        if not refusal.is_guess or self._too_many(origin):
            return False
        self._guessed_refusals += 1
        if self._guessed_refusals <= _REFUSALS_BEFORE_TRIAL or self._trial_is_out:
            return False
        self._trial_is_out = True
        return True

    def end_trial(self) -> None:
        """Lets another request become the trial, once enough were refused."""
        self._trial_is_out = False

    @asynccontextmanager
    async def turn(self, origin: Origin, is_trial: bool = False) -> AsyncGenerator[Turn]:
        """Waits for a turn and holds it until the block ends. A trial is a request that `claim_trial` has let in.

        Raises:
            Overloaded: the queue is full, or the wait would be too long for the server or for the deadline.
            DeadlineExceeded: the deadline passed, or can't be met even without a wait.
        """
        refusal = None if is_trial else self.refusal(origin)
        claims = refusal is not None and self.claim_trial(origin, refusal)
        if refusal is not None and not claims:
            raise refusal.error
        is_trial = is_trial or claims
        try:
            await self._wait_for_turn(origin, is_trial)
            try:
                if is_trial:
                    self._guessed_refusals = 0
                yield Turn(origin, self.pace, is_trial)
            finally:
                self._end_turn()
        finally:
            if claims:
                self.end_trial()

    async def _wait_for_turn(self, origin: Origin, is_trial: bool) -> None:
        if self._is_free():
            self.active += 1
            return
        if self.waiting >= self._limits.max_queue:
            self._make_room(origin)
        waiting = _Waiting(origin, is_trial, asyncio.get_running_loop().create_future())
        self._queues.setdefault(origin.caller, deque()).append(waiting)
        self.waiting += 1
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._remove(waiting)
            elif waiting.turn.exception() is None:  # its turn had come in the same moment
                self._end_turn()
            raise

    def _too_long(self, origin: Origin) -> Refusal | None:
        """The wait would be over the limit if all who asked lately did so again.

        Others can only get in between a caller's own requests: its first one waits for those who wait already.
        """
        own = len(self._queues.get(origin.caller, ()))
        wait_s = self.predicted_wait_s(origin.caller)
        if wait_s and own:
            others = len(self._asked_s.keys() - {origin.caller})
            wait_s = max(wait_s, self.pace.wait_s(own + (own + 1) * others + 1))
        if wait_s <= self._limits.max_wait_s:
            return None
        what = f"a wait of {wait_s:.1f} s is over the limit of {self._limits.max_wait_s:g} s"
        return Refusal(Overloaded(what, wait_s - self._limits.max_wait_s, "queue_wait"))

    def _too_late(self, origin: Origin) -> Refusal | None:
        """The deadline has passed, or can't be met."""
        if origin.deadline_s is None:
            return None
        left_s = origin.deadline_s - self._clock()
        if left_s <= 0:
            return Refusal(DeadlineExceeded("the deadline passed before the request was taken up"))
        needed_s, wait_s = self.pace.least_s(), self.predicted_wait_s(origin.caller)
        if left_s >= wait_s + needed_s:
            return None
        what = f"{left_s:.3f} s are left, and {needed_s:.3f} s is the least that it takes"
        if left_s < needed_s:
            return Refusal(DeadlineExceeded(what), is_guess=True)
        return Refusal(Overloaded(f"{what}, after a wait of {wait_s:.3f} s", wait_s, "deadline"), is_guess=True)

    def _too_many(self, origin: Origin) -> Refusal | None:
        """The queue is full, and nobody waits in it with more requests than this caller."""
        if self._is_free() or self.waiting < self._limits.max_queue or self._longest_rival(origin.caller):
            return None
        return Refusal(self._full("the limit", "queue_full"))

    def _is_free(self) -> bool:
        return self.active < self._limits.max_active and not self.waiting

    def _make_room(self, origin: Origin) -> None:
        """Drops the last request of the caller who has most of them waiting."""
        last = self._longest_rival(origin.caller)[-1]
        self._remove(last)
        last.turn.set_exception(self._full("others wait who have asked for less", "caller_share"))

    def _longest_rival(self, caller: str) -> deque[_Waiting]:
        """The longest queue of a caller; empty if none is longer than this caller's would be."""
        own = len(self._queues.get(caller, ()))
        longest = max(self._queues.values(), key=len, default=deque[_Waiting]())
        return longest if len(longest) > own + 1 else deque[_Waiting]()

    def _full(self, why: str, limit: str) -> Overloaded:
        # Half of the queue: who comes back sooner finds it full again, later ones would find it empty.
        retry_s = max(_LEAST_RETRY_S, self.pace.wait_s(self.waiting // 2 + 1))
        return Overloaded(f"{self.waiting} requests wait for this model, {why}", retry_s, limit)

    def _remove(self, waiting: _Waiting) -> None:
        queue = self._queues.get(waiting.origin.caller, deque[_Waiting]())
        if waiting not in queue:  # its turn had come, and was passed on
            return
        queue.remove(waiting)
        self.waiting -= 1
        if not queue:
            del self._queues[waiting.origin.caller]

    def _end_turn(self) -> None:
        now_s = self._clock()
        if self._ended_s is not None:
            self.pace.learn_interval(now_s - self._ended_s)
        self._ended_s = now_s if self.waiting else None
        self.active -= 1
        while self.waiting and self.active < self._limits.max_active:
            self._start(self._next(), now_s)

    def _next(self) -> _Waiting:
        """Takes the oldest request of the caller whose turn it is, who then goes to the end of the line."""
        caller = next(iter(self._queues))
        queue = self._queues.pop(caller)
        waiting = queue.popleft()
        if queue:
            self._queues[caller] = queue
        self.waiting -= 1
        return waiting

    def _start(self, waiting: _Waiting, now_s: float) -> None:
        if waiting.turn.done():  # cancelled in this very moment
            return
        turn = Turn(waiting.origin, self.pace, waiting.is_trial)
        latest_s = turn.latest_start_s("prepare")
        if latest_s is not None and now_s > latest_s:
            waiting.turn.set_exception(DeadlineExceeded("the deadline can't be met any more after the wait"))
            return
        self.active += 1
        waiting.turn.set_result(None)
