"""Which photo runs when, on which session and with which others: the queues of all networks of one device.

A free device never waits. While the device is busy photos collect, and those of one shape then share a run. The
networks share the device by the seconds that they take (start-time fair queueing: Goyal, Vin and Cheng, 1996), not by
the number of their photos. The batcher needs no event loop: it has threads of its own, and callers get futures.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

import structlog

from mattebox_server.engine.batch import Outcome, Request, late
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.network import Network, Replica
from mattebox_server.engine.turn import Turn
from mattebox_server.imaging.pixels import Pixels

log = structlog.stdlib.get_logger(__name__)

OnFailing = Callable[[Network, int, Callable[[Replica], None]], None]
"""Takes a network of which a session was taken out of service, the number of attempts at rebuilding that session since
it last answered a caller, and the function that puts a new session into service."""


class Batcher:
    """The queues of one device and the threads that run its sessions. All methods may be called from any thread.

    The batcher refers to a network only while photos wait for it or run on it. So a network that was replaced is freed,
    with its sessions, when its last request has ended.

    Args:
        runs: number of runs that go on at once on the device, over all networks.
        on_failing: called on a worker thread when a session has been taken out of service, before any caller gets its
            error.
    """

    def __init__(self, runs: int, on_failing: OnFailing) -> None:
        if runs < 1:
            raise ValueError("runs must be at least 1")
        self._on_failing = on_failing
        self._changed = threading.Condition()  # guards the networks and all that follows
        self._queued: dict[Network, None] = {}  # networks with a queue, in the order in which their queues began
        self._free_runs = runs
        self._turns: set[Turn] = set()  # turns that are not over
        self._begun: deque[Turn] = deque()  # those of them that no thread has taken yet
        self._calls: list[Callable[[], object]] = []  # calls to make when the lock is released
        self._virtual_s = 0.0  # virtual time of the device: that of the network that was chosen last
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
        with self._locked():
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if request.is_late(request.queued_s):
                self._end(request, late())
            else:
                self._enqueue(network, request)
        return request.future

    def abandon(self, future: Future[Inference]) -> None:
        """Takes a photo that nobody waits for out of the queue, or stops its run if that is for nobody else.

        A future whose run is stopped fails with Abandoned.
        """
        if future.cancel():
            return
        with self._changed:
            for turn in self._turns:
                turn.abandon(future)

    def restore(self, network: Network, replica: Replica) -> None:
        """Puts a session into service, in the place of one that failed."""
        with self._locked():
            network.replicas.append(replica)
            network.idle.append(replica)
            self._start_runs()

    def close(self) -> None:
        """Cancels the requests that wait, and waits for those that run.

        A callback that closes the batcher on one of its worker threads doesn't wait.
        """
        with self._locked():
            self._closed = True
            self._changed.notify_all()
            # They leave their queues by `_drop_cancelled`.
            self._calls += [future.cancel for network in self._queued for future in network.waiting]
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Holds the lock, and makes the calls of `_calls` when it is released, because they may use the batcher."""
        with self._changed:
            yield
            calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except BaseException:  # of one caller's callback; the other callers still wait for their answers
                log.exception("a callback failed")

    def _end(self, request: Request, outcome: Outcome) -> None:
        self._calls.append(partial(request.tell, outcome))

    def _enqueue(self, network: Network, request: Request) -> None:
        network.require_serving()
        if not network.waiting:  # a network gains nothing by the time in which it had no queue
            network.virtual_s = max(network.virtual_s, self._virtual_s)
        network.waiting[request.future] = request
        self._queued[network] = None
        self._start_runs()

    def _start_runs(self) -> None:
        """Uses every free run for which there is a request and an idle session."""
        now_s = time.monotonic()
        while self._free_runs and not self._closed and (network := self._next_network()):
            for request in network.take_late(now_s):
                self._end(request, late())
            if requests := network.take_batch(now_s):
                self._virtual_s = max(self._virtual_s, network.virtual_s)
                self._free_runs -= 1
                turn = Turn(network, network.idle.pop(), requests, self._changed)
                self._turns.add(turn)
                self._begun.append(turn)
                self._changed.notify()
            self._forget_if_empty(network)

    def _next_network(self) -> Network | None:
        able = [network for network in self._queued if network.waiting and network.idle]
        return min(able, key=lambda network: (network.virtual_s, network.oldest().queued_s), default=None)

    def _forget_if_empty(self, network: Network) -> None:
        if not network.waiting:
            self._queued.pop(network, None)

    def _drop_cancelled(self, network: Network, future: Future[Inference]) -> None:
        if future.cancelled():
            with self._changed:
                taken = network.waiting.pop(future, None)
                self._forget_if_empty(network)
            if taken:  # `concurrent.futures.wait` needs this to notice the cancellation
                future.set_running_or_notify_cancel()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._begun or self._closed)
                if not self._begun:
                    return
                turn = self._begun.popleft()
            self._take_turn(turn)
            del turn  # else an idle thread would keep the photos, and a network that is replaced

    def _take_turn(self, turn: Turn) -> None:
        """Runs a batch, and then the smaller ones that it is split into, until each of their requests has ended."""
        started_s, network, replica = time.monotonic(), turn.network, turn.replica
        while turn.batches:
            batch = turn.run_next()
            is_ill = turn.session_is_ill()
            with self._locked():
                if is_ill:
                    self._dismiss(turn)
                for request, outcome in batch.ended:
                    self._end(request, outcome)
                if not turn.batches:  # before the callers get their answers, so that the next photo finds a free run
                    self._turns.remove(turn)
                    self._free_runs += 1
                    network.virtual_s += time.monotonic() - started_s
                    network.idle += [] if is_ill else [replica]
                    self._start_runs()

    def _dismiss(self, turn: Turn) -> None:
        """Takes a session out of service, and ends the requests that are left of its turn, which would fail too.

        If it was the network's last session, the requests in the network's queue end as well.
        """
        network, replica = turn.network, turn.replica
        network.replicas.remove(replica)
        self._calls.append(partial(self._tell_failing, network, 0 if replica.answered else replica.rebuilds))
        lost = [request for batch in turn.batches for request in batch.requests]
        turn.batches.clear()
        if not network.is_serving:
            self._queued.pop(network, None)
            lost += network.take_all()
        for request in lost:
            self._end(request, network.not_serving())

    def _tell_failing(self, network: Network, attempts: int) -> None:
        try:
            self._on_failing(network, attempts, partial(self.restore, network))
        except BaseException:  # the callers still wait for their errors
            log.exception("a session that failed isn't rebuilt", model=network.spec.name)
