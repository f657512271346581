"""From model files to an engine: which file on which provider, said aloud, and proven before anyone is served."""

import gc
import itertools
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog

from mattebox_server.engine.artifact import Artifact, FileState, file_state, read_artifact
from mattebox_server.engine.config import (
    GPU_PROVIDERS,
    LADDER,
    TARGETS,
    EngineConfig,
    ProviderName,
    ProviderUnavailable,
)
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import run_session
from mattebox_server.engine.network import Network, NetworkLimits
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.engine.providers import Device, find_device
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.engine.session import OnnxSession, Session
from mattebox_server.errors import StartupError
from mattebox_server.imaging.preprocess import content_size
from mattebox_server.spec import Letterbox, ModelSpec

log = structlog.stdlib.get_logger(__name__)

_STILL_AT_IT_S = 10.0
# The aspects of nearly all photos, the most frequent first: cameras and phones across and upright, squares, screens.
_ASPECTS = ((3, 2), (4, 3), (3, 4), (2, 3), (1, 1), (16, 9), (9, 16))
_WARM_UP_S = 5.0  # a first time costs some 100 ms: where a run takes seconds, no caller would notice


def load_engine(paths: Sequence[Path], config: EngineConfig) -> Engine:
    """Reads, compiles, proves and warms up every model.

    Raises:
        StartupError: a file is no model, two have the same name, or the provider can't run one of them, or what it
            computes is not what the network says.
    """
    states = [file_state(path) for path in paths]  # before they are read: what changes from now on is seen
    artifacts = [read_artifact(path) for path in paths]
    names = [artifact.spec.name for artifact in artifacts]
    if len(set(names)) != len(names):
        raise StartupError(f"two models have the same name: {', '.join(sorted(names))}")
    files = {name: ModelFile(path, state) for name, path, state in zip(names, paths, states, strict=True)}
    networks = [_network(artifact, config) for artifact in artifacts]
    for file in files.values():
        _require_unchanged(file)
    return Engine(networks, ModelFiles(files, config), config.sessions)


@dataclass
class ModelFile:
    """Where an artifact comes from.

    Args:
        path: of the file.
        tried: the file as it was when it was loaded, or refused.
        seen: the file as it was when it was last looked at.
    """

    path: Path
    tried: FileState | None
    seen: FileState | None = None


class ModelFiles:
    """The files that the networks come from; an `Opener`.

    What is opened while the server runs runs on the provider of the network before it: a provider that has no room for
    two is no reason to serve from a slower one from then on.

    Args:
        files: by the networks' names.
        config: of the engine.
    """

    def __init__(self, files: Mapping[str, ModelFile], config: EngineConfig) -> None:
        self._files, self._config = files, config

    def open(self, old: Network) -> Network:
        """See `Opener`."""
        name, file = old.spec.name, self._files[old.spec.name]
        file.tried = file_state(file.path)
        artifact = read_artifact(file.path)
        if artifact.spec.name != name:
            raise StartupError(f"{file.path} is named {artifact.spec.name} now, not {name}: a reload keeps the name")
        network = _network(artifact, replace(self._config, provider=old.provider))
        _require_unchanged(file)
        return network

    def open_session(self, network: Network) -> Session:
        """See `Opener`."""
        path = self._files[network.spec.name].path
        artifact = read_artifact(path)
        if artifact.spec != network.spec:
            raise StartupError(f"{path} is another model than the one that is served: reload it (SIGHUP)")
        gc.collect()  # the traceback of the failure may hold the old session in a cycle, and all that it has on a GPU
        return _ready(artifact, find_device(network.provider), self._config)

    def changed(self) -> list[str]:
        """See `Opener`."""
        names: list[str] = []
        for name, file in self._files.items():
            before, file.seen = file.seen, file_state(file.path)
            if file.seen is None and before is not None:
                log.warning("the model's file is gone", model=name, path=str(file.path))
            if file.seen not in (None, file.tried) and file.seen == before:
                names.append(name)
        return names


def _require_unchanged(file: ModelFile) -> None:
    """Description and graph are read apart, and could come from two artifacts."""
    if file_state(file.path) != file.tried:
        raise StartupError(f"{file.path} changed while it was loaded")


def _network(artifact: Artifact, config: EngineConfig) -> Network:
    sessions = _open(artifact, config)
    limits = NetworkLimits(sessions[0].max_batch)
    return Network(sessions, limits, config.observer)


def _open(artifact: Artifact, config: EngineConfig) -> list[OnnxSession]:
    asked = config.provider
    sessions = _on_ladder(artifact, config) if asked == "auto" else _by_name(artifact, asked, config)
    session, spec = sessions[0], artifact.spec
    log.info(
        "model loaded",
        model=spec.name,
        path=str(artifact.path),
        provider=session.provider,
        precision=session.precision,
        target=spec.target,
        sessions=len(sessions),
        max_batch=session.max_batch,
        weights=spec.weights.source,
        weights_sha256=spec.weights.sha256,
    )
    if spec.target != TARGETS[session.provider]:
        log.warning(
            "the model was exported for another provider: it is right, but may be slow",
            model=spec.name,
            exported_for=spec.target,
            runs_on=session.provider,
            mend=f"mattebox-export --target {TARGETS[session.provider]}",
        )
    if not spec.weights.trained:
        log.warning("the model's weights are random: its mattes mean nothing", model=spec.name)
    return sessions


def _by_name(artifact: Artifact, provider: ProviderName, config: EngineConfig) -> list[OnnxSession]:
    try:
        return _on_provider(artifact, provider, config)
    except ProviderUnavailable as error:
        raise StartupError(f"{artifact.path} can't run on {provider}: {error}") from error


def _on_ladder(artifact: Artifact, config: EngineConfig) -> list[OnnxSession]:
    reasons: list[str] = []
    for provider in LADDER:
        try:
            return _on_provider(artifact, provider, config)
        except ProviderUnavailable as error:
            log.info("provider left out", model=artifact.spec.name, provider=provider, reason=str(error))
            reasons.append(f"{provider}: {error}")
    raise StartupError(f"no provider can run {artifact.path}: {'; '.join(reasons)}")


def _on_provider(artifact: Artifact, provider: ProviderName, config: EngineConfig) -> list[OnnxSession]:
    """As many sessions as there are runs at once; each is proven by itself."""
    device = find_device(provider)
    return [_ready(artifact, device, config) for _ in range(config.sessions)]


def _ready(artifact: Artifact, device: Device, config: EngineConfig) -> OnnxSession:
    session = _proven(artifact, device, config)
    with _phase("warm up", artifact.spec.name, device.provider, config.observer) as facts:
        facts["runs"] = warm_up(session, session.max_batch)
    return session


def _proven(artifact: Artifact, device: Device, config: EngineConfig) -> OnnxSession:
    """A session that computes what the network says; what a cache holds is compiled anew if it doesn't."""
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
        log.warning("what was compiled before is not what it was", model=artifact.spec.name, reason=str(error))
        return _proven(artifact, device, config)
    session.keep_compiled()
    return session


def warm_up(session: Session, max_batch: int) -> int:
    """Runs the shapes that will be asked for, for some seconds, so that no caller pays for a first time.

    The CPU provider has run the check's photo by now and does nothing special for new shapes. The others compile or
    choose kernels for each.

    Returns:
        How many runs there were.
    """
    if session.provider == "cpu":
        return 0
    batches = sorted({1, max_batch} if session.provider in GPU_PROVIDERS else {1})
    sizes = dict.fromkeys(_input_size(session.spec, *aspect) for aspect in _ASPECTS)
    until_s, runs = time.monotonic() + _WARM_UP_S, 0
    for (height, width), batch in itertools.product(sizes, batches):
        if time.monotonic() > until_s:
            break
        run_session(session, [np.zeros((height, width, 3), np.uint8)] * batch, [frozenset[int]()] * batch)
        runs += 1
    return runs


def _input_size(spec: ModelSpec, across: int, down: int) -> tuple[int, int]:
    """Height and width of the network's input for a photo of that aspect."""
    if isinstance(spec.resize, Letterbox):
        return spec.resize.height_px, spec.resize.width_px
    width, height = content_size(across * 1000, down * 1000, spec.resize)
    return height, width


@contextmanager
def _phase(phase: str, model: str, provider: str, observer: EngineObserver) -> Generator[dict[str, object]]:
    """Tells how long a phase took, with the facts that it adds; and while it lasts, that it still does."""
    started_s, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(_STILL_AT_IT_S):
            elapsed_s = round(time.monotonic() - started_s, 1)
            log.info("still at it", phase=phase, model=model, provider=provider, seconds=elapsed_s)

    teller = threading.Thread(target=tell, name="phase", daemon=True)
    teller.start()
    facts: dict[str, object] = {}
    try:
        yield facts
    finally:
        over.set()
        teller.join()
    seconds = time.monotonic() - started_s
    observer.phase(phase, model, seconds)
    log.info("phase", phase=phase, model=model, provider=provider, seconds=round(seconds, 3), **facts)
