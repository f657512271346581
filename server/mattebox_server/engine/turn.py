"""A network's turn: its use of one session, from a chosen batch to the last of the smaller ones that come of it."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

import structlog

from mattebox_server.engine.batch import Batch, Request
from mattebox_server.engine.inference import Abandoned, Inference, run_session
from mattebox_server.engine.network import Network, Replica
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.engine.session import Stop
from mattebox_server.errors import OutOfMemory, Overloaded

log = structlog.stdlib.get_logger(__name__)

_MEMORY_RETRY_S = 1.0


class Turn:
    """Runs batches of one network on one of its sessions, all on one thread.

    A batch that fails is tried again in smaller ones, so that a photo fails only if it does so alone.

    Args:
        network: the network whose turn it is.
        replica: the session that runs, which no other turn uses meanwhile.
        requests: the requests of the first batch.
        lock: the lock that guards the network and the attributes below.

    Attributes:
        batches: the batches that are still to run.
    """

    def __init__(
        self, network: Network, replica: Replica, requests: Sequence[Request], lock: threading.Condition
    ) -> None:
        self.network, self.replica = network, replica
        self.batches = deque([Batch(requests)])
        self._requests = {request.future: request for request in requests}
        self._lock, self._log = lock, log.bind(model=network.spec.name)
        self._running: Batch | None = None
        self._stop = Stop()

    def run_next(self) -> Batch:
        """Runs the next batch; its requests that haven't ended afterwards are in `batches` again, in smaller ones."""
        batch = self.batches.popleft()
        if self._begin(batch):
            self._run(batch)
        self.batches.extend(batch.smaller)
        return batch

    def session_is_ill(self) -> bool:
        """Whether the session has closed itself or failed on several photos in a row, and fails on the check photo too.

        If it gives the right answer to the check photo, the photos are at fault: the session stays in service, and the
        count of its failures starts anew. Else one caller's photos could take the model from all others.
        """
        photos = self.replica.failures
        if photos < self.network.limits.max_failures and self.replica.session.is_open:
            return False
        try:
            check_session(self.replica.session)
        except BaseException as error:  # noqa: BLE001 - after any error the session can't be trusted
            self._log.error("a session fails on the check photo too", photos=photos, reason=str(error))
            return True
        self.replica.failures = 0
        self._log.warning("a session failed on photos, but answers the check photo as it should", photos=photos)
        return False

    def abandon(self, future: Future[Inference]) -> None:
        """Notes that nobody waits for a future, and stops the run if it is for nobody else. Needs the lock."""
        if future in self._requests:
            self._requests[future].abandoned.set()
            if self._running and all(request.abandoned.is_set() for request in self._running.requests):
                self._stop.ask()

    def _begin(self, batch: Batch) -> bool:
        """Prepares the run of a batch; returns False if none of its requests is to run now."""
        with self._lock:
            if len(batch.requests) > self.network.size.now:  # the device ran out of memory since the batch was chosen
                batch.split(self.network.size.now)
            batch.drop_unwanted(time.monotonic())
            if batch.requests:
                self._running, self._stop = batch, Stop()
        return bool(batch.requests)

    def _run(self, batch: Batch) -> None:
        started_s, photos = time.monotonic(), len(batch.requests)
        images, kept = [request.image for request in batch.requests], [request.kept for request in batch.requests]
        try:
            found = run_session(self.replica.session, images, kept, self._stop)
        except Abandoned as error:
            batch.fail(error)
        except OutOfMemory as error:
            self._make_room(batch, error)
        except BaseException as error:  # noqa: BLE001 - the thread must go on after any error
            self._blame(batch, error)
        else:
            batch.answer(found, started_s)
            network, seconds = self.network, time.monotonic() - started_s
            network.observer.run(network.spec.name, network.provider, photos, seconds)
            self._praise(photos)
        finally:
            with self._lock:
                self._running = None

    def _praise(self, photos: int) -> None:
        self.replica.failures, self.replica.answered = 0, True
        with self._lock:
            grown = self.network.size.note_success(photos)
        if grown:
            self._log.info("larger batches are tried again", max_batch=self.network.size.now)

    def _make_room(self, batch: Batch, error: OutOfMemory) -> None:
        photos = len(batch.requests)
        with self._lock:
            self.network.size.shrink(photos)
            room = self.network.size.now
        self._log.warning("the device is out of memory", photos=photos, max_batch=room, reason=str(error))
        if photos > 1:
            batch.split(room)
        else:  # without a cause, because its traceback would hold what the provider has on the device
            batch.fail(Overloaded("the device is out of memory", _MEMORY_RETRY_S, "device_memory"))

    def _blame(self, batch: Batch, error: BaseException) -> None:
        """Counts a failure on a single photo; the photos of a larger batch are tried one by one instead."""
        photos = len(batch.requests)
        if photos > 1:  # the callers don't see the error if each photo succeeds alone
            self._log.warning("a batch failed", photos=photos, reason=repr(error))
            batch.split(1)
        else:
            self.replica.failures += 1
            batch.fail(error)
