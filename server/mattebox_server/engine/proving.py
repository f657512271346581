"""Opens sessions that are ready to serve: compiled, compared with the exported network, and warmed up."""

import itertools
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import structlog

from mattebox_server.engine.artifact import Artifact
from mattebox_server.engine.config import GPU_PROVIDERS, EngineConfig, ProviderUnavailable
from mattebox_server.engine.inference import run_session
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.engine.providers import Device
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.engine.session import OnnxSession, Session
from mattebox_server.imaging.preprocess import content_size
from mattebox_server.spec import Letterbox, ModelSpec

log = structlog.stdlib.get_logger(__name__)

_REPORT_S = 10.0
# The aspects of nearly all photos, the most frequent first: cameras and phones across and upright, squares, screens.
_ASPECTS = ((3, 2), (4, 3), (3, 4), (2, 3), (1, 1), (16, 9), (9, 16))
_WARM_UP_S = 5.0  # a first run takes some 100 ms longer, which no caller notices where every run takes seconds


def open_proven(artifact: Artifact, device: Device, config: EngineConfig) -> OnnxSession:
    """Opens a session that gives the right answer to the check photo, and warms it up.

    Raises:
        ProviderUnavailable: the provider can't run the artifact, or its answer is wrong.
    """
    session = _open_checked(artifact, device, config)
    with _phase("warm up", artifact.spec.name, device.provider, config.observer) as facts:
        facts["runs"] = warm_up(session, session.max_batch)
    return session


def _open_checked(artifact: Artifact, device: Device, config: EngineConfig) -> OnnxSession:
    """Opens a session and runs the check photo. If a cached model gives a wrong answer, it is compiled anew once."""
    with _phase("compile", artifact.spec.name, device.provider, config.observer) as facts:
        session = OnnxSession(artifact, device, config)
        facts["cache"] = session.cache
    was_compiled_before = session.cache == "hit"
    try:
        with _phase("check", artifact.spec.name, device.provider, config.observer) as facts:
            facts.update(check_session(session))
    except ProviderUnavailable as error:
        session.forget_compiled()
        if not was_compiled_before:
            raise
        log.warning("the cached model fails on the check photo", model=artifact.spec.name, reason=str(error))
        return _open_checked(artifact, device, config)
    session.keep_compiled()
    return session


def warm_up(session: Session, max_batch: int) -> int:
    """Runs the most frequent shapes for some seconds; returns the number of runs.

    OpenVINO and the GPU providers compile or choose kernels for each new shape. The CPU provider doesn't, so that the
    run of the check photo is enough for it.
    """
    if session.provider == "cpu":
        return 0
    batches = sorted({1, max_batch}) if session.provider in GPU_PROVIDERS else [1]
    sizes = dict.fromkeys(_input_size(session.spec, *aspect) for aspect in _ASPECTS)
    until_s, runs = time.monotonic() + _WARM_UP_S, 0
    for (height, width), batch in itertools.product(sizes, batches):
        if time.monotonic() > until_s:
            break
        run_session(session, [np.zeros((height, width, 3), np.uint8)] * batch, [frozenset[int]()] * batch)
        runs += 1
    return runs


def _input_size(spec: ModelSpec, across: int, down: int) -> tuple[int, int]:
    """Height and width of the network's input for a photo of an aspect."""
    if isinstance(spec.resize, Letterbox):
        return spec.resize.height_px, spec.resize.width_px
    width, height = content_size(across * 1000, down * 1000, spec.resize)
    return height, width


@contextmanager
def _phase(phase: str, model: str, provider: str, observer: EngineObserver) -> Generator[dict[str, object]]:
    """Logs how long a phase takes, every ten seconds and when it is over, with the facts that the caller fills in."""
    started_s, over = time.monotonic(), threading.Event()

    def report() -> None:
        while not over.wait(_REPORT_S):
            elapsed_s = round(time.monotonic() - started_s, 1)
            log.info("phase goes on", phase=phase, model=model, provider=provider, seconds=elapsed_s)

    reporter = threading.Thread(target=report, name="phase", daemon=True)
    reporter.start()
    facts: dict[str, object] = {}
    try:
        yield facts
    finally:
        over.set()
        reporter.join()
    seconds = time.monotonic() - started_s
    observer.phase(phase, model, seconds)
    log.info("phase", phase=phase, model=model, provider=provider, seconds=round(seconds, 3), **facts)
