"""A network that is loaded: its sessions, and the queue of the photos that wait for it.

The batcher guards everything that changes here by its lock. When a model's file is loaded anew it becomes another
network, so that a photo always runs on the network that it was prepared for.
"""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from mattebox_server.engine.batch import Request
from mattebox_server.engine.config import ProviderName
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.engine.session import Session
from mattebox_server.errors import NotServing

# Other processes on the device come and go, so that memory that is short may be free later. A try costs one run.
_FULL_RUNS_TO_GROW = 500


@dataclass(frozen=True)
class NetworkLimits:
    """How a network collects photos, and how often its sessions may fail.

    Args:
        max_batch: largest number of photos in one run.
        passed_over_s: seconds after which the oldest photo of the queue goes next, even if more wait of another shape.
        max_failures: number of photos in a row that a session may fail on before it must answer the check photo.
    """

    max_batch: int = 1
    passed_over_s: float = 0.05
    max_failures: int = 3


@dataclass(eq=False)
class Replica:
    """A session in service and its failures. Only the thread that runs the session changes them.

    Args:
        session: one of the network's sessions.
        rebuilds: number of attempts that it took to rebuild the session; 0 if it was there from the start.
        failures: number of photos in a row that the session failed on, each alone in a run.
        answered: whether the session has answered any photo.
    """

    session: Session
    rebuilds: int = 0
    failures: int = 0
    answered: bool = False


@dataclass
class BatchSize:
    """The largest number of photos in one run, which falls when the device runs out of memory and rises again later.

    Args:
        limit: largest number that the operator allows.
        now: largest number that fits into the device's memory.
        full_runs: number of runs of `now` photos that went well since `now` changed.
    """

    limit: int
    now: int
    full_runs: int = 0

    def shrink(self, photos: int) -> None:
        """Halves the size, because a run of so many photos had no room."""
        self.now, self.full_runs = min(self.now, math.ceil(photos / 2)), 0

    def note_success(self, photos: int) -> bool:
        """Counts a run of so many photos that went well; returns whether the size has doubled after many of them."""
        if self.now == self.limit or photos < self.now:
            return False
        self.full_runs += 1
        if self.full_runs < _FULL_RUNS_TO_GROW:
            return False
        self.now, self.full_runs = min(self.limit, 2 * self.now), 0
        return True


class Network:
    """An artifact, the sessions that run it, and the photos that wait for it.

    Args:
        sessions: sessions of the artifact, one for each run that may go on at once.
        limits: rules by which photos are collected into batches.
        observer: gets a report of each run.

    Attributes:
        spec: the artifact's description of itself.
        provider: execution provider that really runs the network.
        precision: numeric precision that the network really runs in.
        bounds: shortest and longest side of its images, in pixels; None if only the spec limits them.
        replicas: sessions in service; without any, no photo can be answered.
        idle: sessions in service that don't run at the moment.
        waiting: requests in the queue by their futures, in the order of arrival.
        virtual_s: seconds that the network has used the device; of all networks with a queue, the one with the least
            goes next.
        retry_after_s: seconds after which callers may ask again while no session is in service.
    """

    def __init__(
        self, sessions: Sequence[Session], limits: NetworkLimits, observer: EngineObserver | None = None
    ) -> None:
        if not sessions:
            raise ValueError("every network needs a session")
        if limits.max_batch < 1 or limits.max_failures < 1:
            raise ValueError("max_batch and max_failures must be at least 1")
        first = sessions[0]
        self.spec, self.precision, self.bounds = first.spec, first.precision, first.bounds
        self.provider: ProviderName = first.provider
        self.limits, self.observer = limits, observer or EngineObserver()
        self.size = BatchSize(limits.max_batch, limits.max_batch)
        self.replicas = [Replica(session) for session in sessions]
        self.idle = list(self.replicas)
        self.waiting: dict[Future[Inference], Request] = {}
        self.virtual_s = 0.0
        self.retry_after_s = 1.0

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions in service."""
        return tuple(replica.session for replica in self.replicas)

    @property
    def is_serving(self) -> bool:
        """Whether any session is in service."""
        return bool(self.replicas)

    def not_serving(self) -> NotServing:
        """The error that callers get while no session is in service."""
        return NotServing(f"the model {self.spec.name} failed and is being rebuilt", self.retry_after_s, "rebuilding")

    def require_serving(self) -> None:
        """Raises NotServing if no session is in service."""
        if not self.is_serving:
            raise self.not_serving()

    def oldest(self) -> Request:
        """The request that has waited for the longest time."""
        return next(iter(self.waiting.values()))

    def take_late(self, now_s: float) -> list[Request]:
        """Takes the requests out of the queue whose deadline has passed."""
        return [request for request in list(self.waiting.values()) if request.is_late(now_s) and self._take(request)]

    def take_all(self) -> list[Request]:
        """Takes all requests out of the queue."""
        return [request for request in list(self.waiting.values()) if self._take(request)]

    def take_batch(self, now_s: float) -> list[Request]:
        """Takes the requests out of the queue that share the next run: of one shape, oldest first."""
        batch: list[Request] = []
        shape = self._next_shape(now_s) if self.waiting else None
        for request in [request for request in self.waiting.values() if request.image.shape == shape]:
            if len(batch) < self.size.now and self._take(request):
                batch.append(request)
        return batch

    def _next_shape(self, now_s: float) -> tuple[int, ...]:
        if now_s - self.oldest().queued_s > self.limits.passed_over_s:
            return self.oldest().image.shape
        counts = Counter(request.image.shape for request in self.waiting.values())
        # Of shapes that are equally frequent the oldest wins, because the counter and `max` keep the order of arrival.
        return max(counts, key=lambda shape: min(counts[shape], self.size.now))

    def _take(self, request: Request) -> bool:
        del self.waiting[request.future]
        return request.future.set_running_or_notify_cancel()  # False if it was cancelled; from now on it can't be
