"""Sets up metrics and traces, if they are asked for."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from mattebox_server.engine.observer import EngineObserver
from mattebox_server.errors import StartupError
from mattebox_server.records import Observer
from mattebox_server.telemetry.levels import Levels


class Telemetry:
    """The metrics and the traces of one server. Neither library is loaded unless it is asked for.

    Args:
        metrics_address: HOST:PORT that the metrics are served on; None for no metrics.
        otlp_endpoint: URL of the OpenTelemetry collector that gets the traces; None for no traces.
        service: full name of the gRPC service.

    Attributes:
        observers: get the record of each request.
        engine: gets the phases of starts and the runs of networks.

    Raises:
        StartupError: the extra `otel` is missing.
    """

    def __init__(self, metrics_address: str | None, otlp_endpoint: str | None, service: str) -> None:
        self.observers: list[Observer] = []
        self.engine = EngineObserver()
        self._metrics = self._tracer = None
        self._address = metrics_address
        if metrics_address is not None:
            from mattebox_server.telemetry.metrics import Metrics  # noqa: PLC0415 - a tenth of a second

            self.engine = self._metrics = Metrics()
            self.observers.append(self._metrics.observe)
        if otlp_endpoint is not None:
            try:
                from mattebox_server.telemetry.tracing import Tracer  # noqa: PLC0415 - an extra
            except ImportError as error:
                what = f"otlp_endpoint needs the extra `otel`: pip install 'mattebox[otel]' ({error})"
                raise StartupError(what) from error
            self._tracer = Tracer(otlp_endpoint, service)
            self.observers.append(self._tracer.observe)

    @contextlib.asynccontextmanager
    async def published(self, levels: Callable[[], Levels]) -> AsyncGenerator[None]:
        """Serves the metrics until the end of the block, and sends all traces then.

        Args:
            levels: says how full the server is; called on the event loop.

        Raises:
            StartupError: the metrics' address can't be bound.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._tracer is not None:
                stack.push_async_callback(asyncio.to_thread, self._tracer.close)
            if self._metrics is not None and self._address is not None:
                server = self._metrics.publish(self._address, levels)
                stack.push_async_callback(asyncio.to_thread, server.close)
            yield
