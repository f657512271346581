"""From model files to an engine: which file on which provider, said aloud."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import structlog

from mattebox_server.engine.engine import Engine
from mattebox_server.engine.providers import LADDER, ProviderName, ProviderUnavailable, Threads
from mattebox_server.engine.session import Artifact, OnnxSession, open_session, read_artifact
from mattebox_server.errors import StartupError

log = structlog.stdlib.get_logger(__name__)


def load_engine(paths: Sequence[Path], provider: ProviderName | Literal["auto"], threads: Threads) -> Engine:
    """Reads, opens and runs every model once.

    Raises:
        StartupError: a file is no model, two have the same name, or the provider can't run one of them.
        InferenceFailed: a model loads but doesn't run.
    """
    artifacts = [read_artifact(path) for path in paths]
    names = [artifact.spec.name for artifact in artifacts]
    if len(set(names)) != len(names):
        raise StartupError(f"two models have the same name: {', '.join(sorted(names))}")
    engine = Engine([_open(artifact, provider, threads) for artifact in artifacts])
    started_s = time.monotonic()
    engine.warm_up()
    log.info("models ran", seconds=round(time.monotonic() - started_s, 3))
    return engine


def _open(artifact: Artifact, provider: ProviderName | Literal["auto"], threads: Threads) -> OnnxSession:
    started_s = time.monotonic()
    session = _on_ladder(artifact, threads) if provider == "auto" else _on_provider(artifact, provider, threads)
    spec = session.spec
    log.info(
        "model loaded",
        model=spec.name,
        path=str(artifact.path),
        provider=session.provider,
        precision=session.precision,
        weights=spec.weights.source,
        weights_sha256=spec.weights.sha256,
        seconds=round(time.monotonic() - started_s, 3),
    )
    if not spec.weights.trained:
        log.warning("the model's weights are random: its mattes mean nothing", model=spec.name)
    return session


def _on_provider(artifact: Artifact, provider: ProviderName, threads: Threads) -> OnnxSession:
    try:
        return open_session(artifact, provider, threads)
    except ProviderUnavailable as error:
        raise StartupError(f"{artifact.path} can't run on {provider}: {error}") from error


def _on_ladder(artifact: Artifact, threads: Threads) -> OnnxSession:
    reasons: list[str] = []
    for provider in LADDER:
        try:
            return open_session(artifact, provider, threads)
        except ProviderUnavailable as error:
            log.info("provider left out", model=artifact.spec.name, provider=provider, reason=str(error))
            reasons.append(f"{provider}: {error}")
    raise StartupError(f"no provider can run {artifact.path}: {'; '.join(reasons)}")
