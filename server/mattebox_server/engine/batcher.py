"""Which photo runs when, on which session and with which others: the queues of all networks of one device.

A free device never waits; a busy one collects, and photos of one shape then share a run. The networks share the device
by the seconds that they take (start-time fair queueing), not by the number of their photos. Callers may sit on any
event loop, or none: there are only threads and futures here.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from mattebox_server.engine.inference import Inference, run_session
from mattebox_server.engine.observer import EngineObserver, Unobserved
from mattebox_server.engine.session import Session
from mattebox_server.errors import DeadlineExceeded, Overloaded
from mattebox_server.pixels import Pixels

log = structlog.stdlib.get_logger(__name__)

_UNMEASURED_PHOTO_S = 0.5
_NEWEST_SHARE = 0.2  # weight of the newest run in the moving average of the seconds a photo


@dataclass(frozen=True)
class BatchLimits:
    """What one network may collect: photos a run, and requests that wait.

    A request that waited longer than `max_wait_s` goes next in its network, even if more wait of another shape.
    """

    max_batch: int
    max_wait_s: float
    max_queue: int


@dataclass(frozen=True, eq=False)
class _Request:
    image: Pixels
    kept: frozenset[int]
    deadline_s: float | None
    queued_s: float
    future: Future[Inference] = field(default_factory=Future[Inference])


_Outcomes = dict[_Request, Inference | BaseException]
_Queue = dict[Future[Inference], _Request]


@dataclass
class _Network:
    idle: list[Session]
    limits: BatchLimits
    waiting: _Queue = field(default_factory=_Queue)  # in the order of arrival
    virtual_s: float = 0.0  # grows by the seconds of the network's runs; who waits with the least goes next
    photo_s: float = _UNMEASURED_PHOTO_S
    measured: bool = False

    def oldest(self) -> _Request:
        return next(iter(self.waiting.values()))

    def take_expired(self, now_s: float) -> _Outcomes:
        late = _expired(self.waiting.values(), now_s)
        return {request: error for request, error in late.items() if self._take(request)}

    def take_batch(self, now_s: float) -> list[_Request]:
        batch: list[_Request] = []
        shape = self._next_shape(now_s) if self.waiting else None
        for request in [request for request in self.waiting.values() if request.image.shape == shape]:
            if len(batch) < self.limits.max_batch and self._take(request):
                batch.append(request)
        return batch

    def _next_shape(self, now_s: float) -> tuple[int, ...]:
        if now_s - self.oldest().queued_s > self.limits.max_wait_s:
            return self.oldest().image.shape
        counts = Counter(request.image.shape for request in self.waiting.values())
        # Both the counter and `max` keep the order of arrival: ties go to the oldest.
        return max(counts, key=lambda shape: min(counts[shape], self.limits.max_batch))

    def _take(self, request: _Request) -> bool:
        del self.waiting[request.future]
        return request.future.set_running_or_notify_cancel()  # False if just cancelled; if not, it can't be any more

    def charge(self, photos: int, taken_s: float) -> None:
        self.virtual_s += taken_s
        self.photo_s += (taken_s / photos - self.photo_s) * (_NEWEST_SHARE if self.measured else 1)
        self.measured = True


class Batcher:
    """The queues of one device and the threads that run its sessions. All methods may be called from any thread.

    Args:
        sessions: of each network, by its name; a network may have several, its replicas. None runs twice at once.
        limits: of each network.
        runs: how many runs go on at once on the device, over all networks.
        observer: gets the runs.
    """

    def __init__(
        self,
        sessions: Mapping[str, Sequence[Session]],
        limits: Mapping[str, BatchLimits],
        runs: int,
        observer: EngineObserver | None = None,
    ) -> None:
        if sessions.keys() != limits.keys() or not all(sessions.values()):
            raise ValueError("every network needs a session and limits")
        if runs < 1 or any(limit.max_batch < 1 for limit in limits.values()):
            raise ValueError("runs and max_batch must be at least 1")
        self._networks = {name: _Network(list(replicas), limits[name]) for name, replicas in sessions.items()}
        self._observer = observer or Unobserved()
        self._changed = threading.Condition()  # guards the networks and all that follows
        self._free_runs = runs
        self._ready: deque[tuple[_Network, Session, list[_Request]]] = deque()  # chosen, no thread has taken them yet
        self._virtual_s = 0.0  # the device's: where the network that runs stood when it was chosen
        self._closed = False
        # Daemons: a batcher that nobody closes must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=f"engine-{n}", daemon=True) for n in range(runs)]
        for thread in self._threads:
            thread.start()

    def submit(self, name: str, image: Pixels, kept: frozenset[int], deadline_s: float | None) -> Future[Inference]:
        """Queues a photo uint8 (h, w, 3); if the device and a session are free, its run starts at once.

        The future can be cancelled until the run starts. It fails with DeadlineExceeded if `deadline_s`, on the clock
        of `time.monotonic`, passes before that, and with InferenceFailed if the network fails on this photo.

        Raises:
            Overloaded: the network's queue is full.
            RuntimeError: the batcher is closed.
        """
        network = self._networks[name]
        request = _Request(image, kept, deadline_s, time.monotonic())
        request.future.add_done_callback(partial(self._drop_cancelled, network))
        outcomes = _expired([request], request.queued_s)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if not outcomes:
                outcomes = self._enqueue(network, request)
        _end(outcomes)
        return request.future

    def waiting(self, name: str) -> int:
        """Requests in a network's queue."""
        with self._changed:
            return len(self._networks[name].waiting)

    def close(self) -> None:
        """Cancels what waits; waits for what runs, unless it is a callback on a worker thread that calls."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            dropped = [request for network in self._networks.values() for request in network.waiting.values()]
        _end(dict.fromkeys(dropped))  # they leave their queues by _drop_cancelled
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def _enqueue(self, network: _Network, request: _Request) -> _Outcomes:
        outcomes: _Outcomes = {}
        full = len(network.waiting) >= network.limits.max_queue
        if full and not (self._free_runs and network.idle):
            outcomes = network.take_expired(request.queued_s)
            if (waiting := len(network.waiting)) >= network.limits.max_queue:
                raise Overloaded(
                    f"{waiting} photos wait for the network", network.photo_s * (waiting + 1), "queue_full"
                )
        if not network.waiting:  # it wakes: the time in which it asked for nothing is no credit
            network.virtual_s = max(network.virtual_s, self._virtual_s)
        network.waiting[request.future] = request
        return outcomes | self._start_runs(request.queued_s)

    def _start_runs(self, now_s: float) -> _Outcomes:
        """Uses every free run for which there is a request and an idle session; returns what expired meanwhile."""
        outcomes: _Outcomes = {}
        while self._free_runs and not self._closed and (network := self._next_network()):
            outcomes |= network.take_expired(now_s)
            if requests := network.take_batch(now_s):
                self._virtual_s = max(self._virtual_s, network.virtual_s)
                self._free_runs -= 1
                self._ready.append((network, network.idle.pop(), requests))
                self._changed.notify()
        return outcomes

    def _next_network(self) -> _Network | None:
        able = [network for network in self._networks.values() if network.waiting and network.idle]
        return min(able, key=lambda network: (network.virtual_s, network.oldest().queued_s), default=None)

    def _drop_cancelled(self, network: _Network, future: Future[Inference]) -> None:
        if future.cancelled():
            with self._changed:
                taken = network.waiting.pop(future, None)
            if taken:  # for those who wait with `concurrent.futures.wait`
                future.set_running_or_notify_cancel()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closed)
                if not self._ready:
                    return
                network, session, requests = self._ready.popleft()
            self._run(network, session, requests)
            del requests  # an idle thread keeps nobody's photos

    def _run(self, network: _Network, session: Session, requests: list[_Request]) -> None:
        started_s = time.monotonic()
        attempts = deque([requests])
        while attempts:
            tried = attempts.popleft()
            outcomes = _attempt(session, tried, self._observer)
            attempts.extend([request] for request in tried if request not in outcomes)
            if not attempts:  # before the callers know, so that whoever asks again finds the session free
                with self._changed:
                    self._free_runs += 1
                    network.idle.append(session)
                    network.charge(len(requests), time.monotonic() - started_s)
                    outcomes |= self._start_runs(time.monotonic())
            _end(outcomes)


def _attempt(session: Session, requests: list[_Request], observer: EngineObserver) -> _Outcomes:
    """Runs a batch; gives no outcome for those that must be tried alone, because one of them made it fail."""
    started_s = time.monotonic()
    outcomes = _expired(requests, started_s)
    alive = [request for request in requests if request not in outcomes]
    if alive:
        try:
            found = run_session(session, [request.image for request in alive], [request.kept for request in alive])
            for request, inference in zip(alive, found, strict=True):
                outcomes[request] = replace(inference, queue_s=started_s - request.queued_s)
            observer.run(session.spec.name, session.provider, len(found), found[0].infer_s)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread goes on
            if len(alive) == 1:
                outcomes[alive[0]] = error
            else:  # nobody may ever see it, if the network has just no room for so many
                log.warning("a batch failed", model=session.spec.name, photos=len(alive), reason=repr(error))
    return outcomes


def _expired(requests: Iterable[_Request], now_s: float) -> _Outcomes:
    late = [request for request in requests if request.deadline_s is not None and now_s >= request.deadline_s]
    return {request: DeadlineExceeded("the deadline passed in the engine's queue") for request in late}


def _end(outcomes: Mapping[_Request, Inference | BaseException | None]) -> None:
    """Hands out answers; None cancels. To be called without the lock: the callers' callbacks run in here."""
    for request, outcome in outcomes.items():
        try:
            if isinstance(outcome, Inference):
                request.future.set_result(outcome)
            elif outcome is None:
                request.future.cancel()
            else:
                request.future.set_exception(outcome)
        except BaseException:  # a callback's, and the other callers still wait
            log.exception("a callback failed")
