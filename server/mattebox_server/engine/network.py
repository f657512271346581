"""One artifact on its sessions: what runs it, and the photos that wait for it.

Plain data and its rules; the batcher holds its lock around everything that changes. An artifact that is loaded anew is
another network, so that a request which holds a network runs on the very one that its photo was prepared for.
"""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from mattebox_server.engine.batch import Request
from mattebox_server.engine.config import ProviderName
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.observer import EngineObserver, Unobserved
from mattebox_server.engine.session import Session
from mattebox_server.errors import NotServing

# Other processes on the device come and go, so that less memory is not for ever. A try that fails costs one run.
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
    """A session in service, and how it does. Only the thread that runs it changes it.

    Args:
        session: that runs.
        rebuilds: attempts that it took to build it again; 0 for one that was there from the start.
        failures: photos in a row that it failed on, each alone in a run.
        answered: whether it has answered any photo.
    """

    session: Session
    rebuilds: int = 0
    failures: int = 0
    answered: bool = False


@dataclass
class BatchSize:
    """Photos in a run: the limit, or fewer since the device ran out of memory.

    Args:
        limit: what was asked for.
        now: what fits.
        full_runs: of that many photos, that went well since it changed.
    """

    limit: int
    now: int
    full_runs: int = 0

    def shrink(self, photos: int) -> None:
        """A run of so many photos was too large."""
        self.now, self.full_runs = min(self.now, math.ceil(photos / 2)), 0

    def note_success(self, photos: int) -> bool:
        """A run of so many photos went well; returns whether larger ones are tried from now on."""
        if self.now == self.limit or photos < self.now:
            return False
        self.full_runs += 1
        if self.full_runs < _FULL_RUNS_TO_GROW:
            return False
        self.now, self.full_runs = min(self.limit, 2 * self.now), 0
        return True


class Network:
    """An artifact that is loaded.

    Args:
        sessions: its replicas. None runs twice at once.
        limits: what it may collect.
        observer: gets the runs.

    Attributes:
        spec: the artifact's description of itself.
        provider: execution provider that really runs it.
        precision: numeric precision that it really runs in.
        bounds: see `Session.bounds`.
        replicas: in service; without any, nobody can be answered.
        idle: of these, those that don't run.
        waiting: in the order of arrival.
        virtual_s: grows by the seconds of the network's runs; who waits with the least goes next.
        retry_after_s: when to ask again while it is not serving.
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
        self.limits, self.observer = limits, observer or Unobserved()
        self.size = BatchSize(limits.max_batch, limits.max_batch)
        self.replicas = [Replica(session) for session in sessions]
        self.idle = list(self.replicas)
        self.waiting: dict[Future[Inference], Request] = {}
        self.virtual_s = 0.0
        self.retry_after_s = 1.0

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those in service."""
        return tuple(replica.session for replica in self.replicas)

    @property
    def is_serving(self) -> bool:
        """Whether any session is in service."""
        return bool(self.replicas)

    def not_serving(self) -> NotServing:
        """What callers are told while no session is in service."""
        return NotServing(f"the model {self.spec.name} failed and is being rebuilt", self.retry_after_s, "rebuilding")

    def require_serving(self) -> None:
        """Raises NotServing if no session is in service."""
        if not self.is_serving:
            raise self.not_serving()

    def oldest(self) -> Request:
        """The one that waits for the longest time."""
        return next(iter(self.waiting.values()))

    def take_late(self, now_s: float) -> list[Request]:
        """Takes those out of the queue whose deadline has passed."""
        return [request for request in list(self.waiting.values()) if request.is_late(now_s) and self._take(request)]

    def take_all(self) -> list[Request]:
        """Empties the queue."""
        return [request for request in list(self.waiting.values()) if self._take(request)]

    def take_batch(self, now_s: float) -> list[Request]:
        """Takes those out of the queue that share the next run."""
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
        # Both the counter and `max` keep the order of arrival: ties go to the oldest.
        return max(counts, key=lambda shape: min(counts[shape], self.size.now))

    def _take(self, request: Request) -> bool:
        del self.waiting[request.future]
        return request.future.set_running_or_notify_cancel()  # False if just cancelled; if not, it can't be any more
