"""The metrics that Prometheus reads.

Labels come from closed sets: methods, statuses, the server's models, names of tokens.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import MetricsHandler
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from mattebox_server.engine.observer import EngineObserver
from mattebox_server.records import Record
from mattebox_server.telemetry.levels import LEVELS, Levels
from mattebox_server.telemetry.scraping import ScrapeServer

COUNTERS_AND_GAUGES: Mapping[str, tuple[str, ...]] = {
    "mattebox_requests_total": ("method", "status", "caller"),
    "mattebox_rejected_total": ("reason",),
    "mattebox_cancelled_total": ("method",),
    "mattebox_startup_seconds": ("phase", "model"),
    **{name: labels for name, (_, labels) in LEVELS.items()},
}
"""Mattebox's counters and gauges, with their labels."""
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "mattebox_request_seconds": ("method",),
    "mattebox_stage_seconds": ("stage", "model"),
    "mattebox_batch_size": ("model",),
    "mattebox_engine_seconds": ("model", "provider"),
}
"""Mattebox's histograms, with their labels. Each has series that end in `_bucket`, `_sum` and `_count`."""

# So that a rate is right from the first refusal on: a counter that appears at 500 has never risen.
_REASONS = (
    *("queue_full", "queue_wait", "caller_share", "deadline", "memory", "receiving"),
    *("device_memory", "rebuilding", "starting", "draining", "unauthenticated"),
)
# Dense where answers are expected: networks take 2 to 20 ms on GPUs, 0.2 to 3 s on CPUs.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 30)
_PHOTOS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
_LOOP_S = 5.0  # Prometheus gives up after 10 s


class Metrics(EngineObserver):
    """Counts requests as they end, and what the engine does. It has a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._models: frozenset[str] = frozenset()
        self._requests = self._counter("mattebox_requests_total", "Requests that ended.")
        self._rejected = self._counter("mattebox_rejected_total", "Requests refused at a limit of room or time.")
        self._cancelled = self._counter("mattebox_cancelled_total", "Requests whose caller went away.")
        self._request_seconds = self._histogram(
            "mattebox_request_seconds", "From arrival to end, of what was not rejected.", _SECONDS
        )
        self._stage_seconds = self._histogram("mattebox_stage_seconds", "Parts of requests.", _STAGE_SECONDS)
        self._batch_size = self._histogram("mattebox_batch_size", "Photos in a run of a network.", _PHOTOS)
        self._engine_seconds = self._histogram("mattebox_engine_seconds", "Runs of networks.", _SECONDS)
        name = "mattebox_startup_seconds"
        what = "Phases of a session's start, the latest of each model."
        self._startup_seconds = Gauge(name, what, COUNTERS_AND_GAUGES[name], registry=registry)
        for reason in _REASONS:
            self._rejected.labels(reason)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def observe(self, record: Record) -> None:
        """Counts a request that has ended."""
        self._requests.labels(record.method, record.status, record.caller).inc()
        if record.limit:
            self._rejected.labels(record.limit).inc()
        else:  # thousands of refusals in a millisecond each would hide how long the answers take
            self._request_seconds.labels(record.method).observe(record.seconds)
        if record.status == "CANCELLED":
            self._cancelled.labels(record.method).inc()
        model = record.model if record.model in self._models else ""  # callers may ask for anything
        for stage in record.times:
            self._stage_seconds.labels(stage.name, model).observe(stage.seconds)

    def phase(self, phase: str, model: str, seconds: float) -> None:
        """Notes the seconds of a phase of a session's start."""
        self._models |= {model}
        self._startup_seconds.labels(phase, model).set(seconds)

    def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
        """Counts a run of a network."""
        self._batch_size.labels(model).observe(photos)
        self._engine_seconds.labels(model, provider).observe(seconds)

    def publish(self, address: str, levels: Callable[[], Levels]) -> ScrapeServer:
        """Serves the metrics. To be called on the event loop.

        Args:
            address: HOST:PORT; port 0 takes a free one.
            levels: says how full the server is; called at each scrape, on the event loop.

        Raises:
            StartupError: the address can't be bound.
        """
        self._registry.register(_LevelsCollector(levels, asyncio.get_running_loop()))
        return ScrapeServer(address, MetricsHandler.factory(self._registry))

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(name, what, COUNTERS_AND_GAUGES[name], registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, what, HISTOGRAMS[name], buckets=buckets, registry=self._registry)


class _LevelsCollector(Collector):
    """Asks the event loop at each scrape, because the lanes belong to it and no other thread may look at them."""

    def __init__(self, levels: Callable[[], Levels], loop: asyncio.AbstractEventLoop) -> None:
        self._levels, self._loop = levels, loop

    def describe(self) -> Iterator[Metric]:
        """Gives the names of the gauges to the registry."""
        return _gauges({})

    def collect(self) -> Iterator[Metric]:
        """Raises RuntimeError if the event loop doesn't answer: the scrape fails, as the server does."""

        async def ask() -> Levels:
            return self._levels()

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            levels = asked.result(_LOOP_S)
        except TimeoutError as error:
            asked.cancel()
            raise RuntimeError(f"the event loop hasn't answered for {_LOOP_S:g} s") from error
        return _gauges(levels)


def _gauges(levels: Levels) -> Iterator[Metric]:
    for name, (what, labels) in LEVELS.items():
        gauge = GaugeMetricFamily(name, what, labels=labels)
        for values, value in levels.get(name, {}).items():
            gauge.add_metric(values, value)
        yield gauge
