"""Which photo runs when, on which session and with which others: the queues of all networks of one device.

A free device never waits; a busy one collects, and photos of one shape then share a run. The networks share the device
by the seconds that they take (start-time fair queueing), not by the number of their photos. Callers may sit on any
event loop, or none: there are only threads and futures here.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import structlog

from mattebox_server.engine.inference import Abandoned, Inference, run_session
from mattebox_server.engine.network import Network, Outcomes, Replica, Request, expired
from mattebox_server.engine.session import Session, Stop
from mattebox_server.errors import OutOfMemory, Overloaded
from mattebox_server.imaging.pixels import Pixels

log = structlog.stdlib.get_logger(__name__)

_Batches = list[list[Request]]

_MEMORY_RETRY_S = 1.0


class Batcher:
    """The queues of one device and the threads that run its sessions. All methods may be called from any thread.

    A network is known while something waits for it: once nobody holds it any more, its sessions are freed.

    Args:
        runs: how many runs go on at once on the device, over all networks.
        on_failing: is told on a worker thread that a replica was taken out of service, before any caller is; and how
            many attempts at rebuilding it have led to no answer yet.
    """

    def __init__(self, runs: int, on_failing: Callable[[Network, int], None]) -> None:
        if runs < 1:
            raise ValueError("runs must be at least 1")
        self._on_failing = on_failing
        self._awake: dict[Network, None] = {}  # something waits for them; in the order in which they woke
        self._changed = threading.Condition()  # guards the networks and all that follows
        self._free_runs = runs
        self._ready: deque[tuple[Network, Replica, list[Request]]] = deque()  # chosen, no thread has taken them yet
        self._begun: dict[Future[Inference], Request] = {}  # chosen, and not answered yet
        self._running: dict[Replica, tuple[list[Request], Stop]] = {}
        self._virtual_s = 0.0  # the device's: where the network that runs stood when it was chosen
        self._closed = False
        # Daemons: a batcher that nobody closes must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=f"engine-{n}", daemon=True) for n in range(runs)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, network: Network, image: Pixels, kept: frozenset[int], deadline_s: float | None
    ) -> Future[Inference]:
        """Queues a photo uint8 (h, w, 3); if the device and a session are free, its run starts at once.

        The future can be cancelled until the run starts, and abandoned at any time. It fails with DeadlineExceeded if
        `deadline_s`, on the clock of `time.monotonic`, passes before the run, with InferenceFailed if the network fails
        on this photo, with Overloaded if the device has no memory for it, and with NotServing if the last session goes
        out of service.

        Raises:
            NotServing: no session of the network is in service.
            RuntimeError: the batcher is closed.
        """
        request = Request(image, kept, deadline_s, time.monotonic())
        request.future.add_done_callback(partial(self._drop_cancelled, network))
        outcomes = expired([request], request.queued_s)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if not outcomes:
                outcomes = self._enqueue(network, request)
        _end(outcomes)
        return request.future

    def abandon(self, future: Future[Inference]) -> None:
        """Nobody waits for a photo any longer: it leaves the queue, or its run stops if it is for nobody else.

        A future whose run is stopped fails with Abandoned.
        """
        if future.cancel():
            return
        with self._changed:
            request = self._begun.get(future)
            if request is None:  # it has just ended
                return
            request.abandoned.set()
            for requests, stop in self._running.values():
                if request in requests and all(each.abandoned.is_set() for each in requests):
                    stop.ask()

    def restore(self, network: Network, replica: Replica) -> None:
        """Puts a replica into service, in place of one that failed."""
        with self._changed:
            network.replicas.append(replica)
            network.idle.append(replica)
            outcomes = self._start_runs(time.monotonic())
        _end(outcomes)

    def waiting(self, network: Network) -> int:
        """Requests in a network's queue."""
        with self._changed:
            return len(network.waiting)

    def close(self) -> None:
        """Cancels what waits; waits for what runs, unless it is a callback on a worker thread that calls."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            dropped = [request for network in self._awake for request in network.waiting.values()]
        _end(dict.fromkeys(dropped))  # they leave their queues by _drop_cancelled
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def _enqueue(self, network: Network, request: Request) -> Outcomes:
        network.require_serving()
        if not network.waiting:  # it wakes: the time in which it asked for nothing is no credit
            network.virtual_s = max(network.virtual_s, self._virtual_s)
        network.waiting[request.future] = request
        self._awake[network] = None
        return self._start_runs(request.queued_s)

    def _start_runs(self, now_s: float) -> Outcomes:
        """Uses every free run for which there is a request and an idle session; returns what expired meanwhile."""
        outcomes: Outcomes = {}
        while self._free_runs and not self._closed and (network := self._next_network()):
            outcomes |= network.take_expired(now_s)
            if requests := network.take_batch(now_s):
                self._virtual_s = max(self._virtual_s, network.virtual_s)
                self._free_runs -= 1
                self._ready.append((network, network.idle.pop(), requests))
                self._begun |= {request.future: request for request in requests}
                self._changed.notify()
            self._let_sleep(network)
        return outcomes

    def _next_network(self) -> Network | None:
        able = [network for network in self._awake if network.waiting and network.idle]
        return min(able, key=lambda network: (network.virtual_s, network.oldest().queued_s), default=None)

    def _let_sleep(self, network: Network) -> None:
        if not network.waiting:
            self._awake.pop(network, None)

    def _drop_cancelled(self, network: Network, future: Future[Inference]) -> None:
        if future.cancelled():
            with self._changed:
                taken = network.waiting.pop(future, None)
                self._let_sleep(network)
            if taken:  # for those who wait with `concurrent.futures.wait`
                future.set_running_or_notify_cancel()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closed)
                if not self._ready:
                    return
                network, replica, requests = self._ready.popleft()
            self._run(network, replica, requests)
            del network, replica, requests  # an idle thread keeps nobody's photos, and no network that is replaced

    def _run(self, network: Network, replica: Replica, requests: list[Request]) -> None:
        started_s = time.monotonic()
        attempts = deque([requests])
        while attempts:
            outcomes, again = self._attempt(network, replica, attempts.popleft())
            attempts.extend(again)
            failing = replica.failures >= network.limits.max_failures
            if failing:  # it would fail on them too
                outcomes |= {request: network.not_serving() for tried in attempts for request in tried}
                attempts.clear()
            with self._changed:
                for request in outcomes:
                    self._begun.pop(request.future, None)
                if not attempts:  # before the callers know, so that whoever asks again finds the session free
                    self._free_runs += 1
                    network.virtual_s += time.monotonic() - started_s
                    outcomes |= self._dismiss(network, replica) if failing else {}
                    network.idle += [] if failing else [replica]
                    outcomes |= self._start_runs(time.monotonic())
            if failing:
                self._tell_failing(network, replica)
            _end(outcomes)

    def _attempt(self, network: Network, replica: Replica, requests: list[Request]) -> tuple[Outcomes, _Batches]:
        """Runs a batch; returns outcomes, and the smaller batches to try for those who have none yet."""
        if len(requests) > network.size.now:  # the device ran out of memory since they were chosen
            return {}, _halves(requests)
        started_s = time.monotonic()
        outcomes = expired(requests, started_s)
        outcomes |= {request: Abandoned() for request in requests if request.abandoned.is_set()}
        alive = [request for request in requests if request not in outcomes]
        if not alive:
            return outcomes, []
        stop = Stop()
        with self._changed:
            self._running[replica] = alive, stop
        try:
            ended, again = _answers(replica.session, alive, started_s, stop), _Batches()
        except Abandoned as error:
            ended, again = dict.fromkeys(alive, error), _Batches()
        except OutOfMemory as error:
            ended, again = self._make_room(network, alive, error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread goes on
            ended, again = _blame(replica, alive, error)
        else:
            network.observer.run(network.spec.name, network.provider, len(alive), time.monotonic() - started_s)
            self._praise(network, replica, len(alive))
        finally:
            with self._changed:
                del self._running[replica]
        return outcomes | ended, again

    def _praise(self, network: Network, replica: Replica, photos: int) -> None:
        replica.failures, replica.answered = 0, True
        with self._changed:
            grown = network.size.note_success(photos)
        if grown:
            log.info("larger batches are tried again", model=network.spec.name, max_batch=network.size.now)

    def _make_room(self, network: Network, requests: list[Request], error: OutOfMemory) -> tuple[Outcomes, _Batches]:
        with self._changed:
            network.size.shrink(len(requests))
        log.warning(
            "the device is out of memory",
            model=network.spec.name,
            photos=len(requests),
            max_batch=network.size.now,
            reason=str(error),
        )
        if len(requests) > 1:
            return {}, _halves(requests)
        # Without a cause: its traceback would hold what the provider had on the device.
        return {requests[0]: Overloaded("the device is out of memory", _MEMORY_RETRY_S, "device_memory")}, []

    def _dismiss(self, network: Network, replica: Replica) -> Outcomes:
        """Takes a replica out of service; if it was the last, nobody who waits can be answered."""
        network.replicas.remove(replica)
        if network.is_serving:
            return {}
        self._awake.pop(network, None)
        return {request: network.not_serving() for request in network.take_all()}

    def _tell_failing(self, network: Network, replica: Replica) -> None:
        try:
            self._on_failing(network, 0 if replica.answered else replica.rebuilds)
        except BaseException:  # the callers still wait
            log.exception("a failing session is left as it is", model=network.spec.name)


def _answers(session: Session, requests: list[Request], started_s: float, stop: Stop) -> Outcomes:
    images, kept = [request.image for request in requests], [request.kept for request in requests]
    found = run_session(session, images, kept, stop)
    return {
        request: replace(inference, queue_s=started_s - request.queued_s)
        for request, inference in zip(requests, found, strict=True)
    }


def _blame(replica: Replica, requests: list[Request], error: BaseException) -> tuple[Outcomes, _Batches]:
    """One alone gets the error; of several each is tried alone, because one of them may have made all fail."""
    if len(requests) > 1:  # nobody may ever see it, if none of them fails alone
        log.warning("a batch failed", model=replica.session.spec.name, photos=len(requests), reason=repr(error))
        return {}, [[request] for request in requests]
    replica.failures += 1
    return {requests[0]: error}, []


def _halves(requests: list[Request]) -> _Batches:
    middle = math.ceil(len(requests) / 2)
    return [requests[:middle], requests[middle:]]


def _end(outcomes: Mapping[Request, Inference | BaseException | None]) -> None:
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
