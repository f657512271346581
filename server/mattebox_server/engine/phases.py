"""The phases of a start in the log and the metrics: trial, compile, check and warm up."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import structlog

from mattebox_server.engine.observer import EngineObserver

log = structlog.stdlib.get_logger(__name__)

_REPORT_S = 10.0


@contextmanager
def phase(name: str, model: str, provider: str, observer: EngineObserver) -> Generator[dict[str, object]]:
    """Logs how long a phase takes, every ten seconds and when it is over, with the facts that the caller fills in."""
    started_s, over = time.monotonic(), threading.Event()

    def report() -> None:
        while not over.wait(_REPORT_S):
            elapsed_s = round(time.monotonic() - started_s, 1)
            log.info("phase goes on", phase=name, model=model, provider=provider, seconds=elapsed_s)

    reporter = threading.Thread(target=report, name="phase", daemon=True)
    reporter.start()
    facts: dict[str, object] = {}
    try:
        yield facts
    finally:
        over.set()
        reporter.join()
    seconds = time.monotonic() - started_s
    observer.phase(name, model, seconds)
    log.info("phase", phase=name, model=model, provider=provider, seconds=round(seconds, 3), **facts)
