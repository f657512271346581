"""From model files to an engine: each file is opened on a provider that can run it, and the choice is logged."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import structlog

from mattebox_server.engine.artifact import Artifact, FileState, file_state, read_artifact
from mattebox_server.engine.config import (
    ABILITIES,
    LADDER,
    EngineConfig,
    ProviderName,
    ProviderUnavailable,
    RequestedPrecision,
)
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.network import Network, NetworkLimits
from mattebox_server.engine.opening import ArtifactSession
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.proving import open_proven
from mattebox_server.engine.session import Session
from mattebox_server.engine.trial import require_trial
from mattebox_server.errors import StartupError

log = structlog.stdlib.get_logger(__name__)


def load_engine(paths: Sequence[Path], config: EngineConfig) -> Engine:
    """Opens, checks and warms up every model.

    Args:
        paths: model files, of which the first is the default model's.
        config: configuration of the engine.

    Raises:
        StartupError: a file is no model, two models have the same name, or a model can't run, or gives a wrong answer
            to its check photo, on every provider that may be used.
    """
    states = [file_state(path) for path in paths]  # taken before the files are read, so that no change is missed
    artifacts = [read_artifact(path) for path in paths]
    names = [artifact.spec.name for artifact in artifacts]
    for name in names:
        if len(same := [str(artifact.path) for artifact in artifacts if artifact.spec.name == name]) > 1:
            raise StartupError(f"two models have the same name: {name} is in {' and '.join(same)}")
    files = {name: ModelFile(path, state) for name, path, state in zip(names, paths, states, strict=True)}
    networks = [_network(artifact, config) for artifact in artifacts]
    for file in files.values():
        _require_unchanged(file)
    return Engine(networks, ModelFiles(files, config), config.sessions)


@dataclass
class ModelFile:
    """A model's file, its state when it was last loaded or refused, and its state when it was last looked at."""

    path: Path
    tried: FileState | None
    seen: FileState | None = None


class ModelFiles:
    """The model files of a server, from which networks and sessions are opened anew; an `Opener`.

    A network that takes an old one's place runs on the same provider. With `auto`, a GPU that has no room for both
    would otherwise be left for a slower provider.

    Args:
        files: model files by the networks' names.
        config: configuration of the engine.
    """

    def __init__(self, files: Mapping[str, ModelFile], config: EngineConfig) -> None:
        self._files, self._config = files, config

    def open(self, old: Network) -> Network:
        """Opens the network that a file holds now.

        Raises:
            StartupError: the file can't be read, is no model or another one's, can't run, or changes meanwhile.
        """
        name, file = old.spec.name, self._files[old.spec.name]
        file.tried = file_state(file.path)
        artifact = read_artifact(file.path)
        if artifact.spec.name != name:
            raise StartupError(f"{file.path} is named {artifact.spec.name} now, not {name}: a reload keeps the name")
        network = _network(artifact, self._config, old.provider)
        _require_unchanged(file)
        return network

    def open_session(self, network: Network) -> Session:
        """Opens one more session of a network.

        Raises:
            StartupError: the file can't be read, or holds another artifact by now.
            ProviderUnavailable: the provider can't run the artifact, or gives a wrong answer to the check photo.
        """
        path = self._files[network.spec.name].path
        artifact = read_artifact(path)
        if artifact.spec != network.spec:
            raise StartupError(f"{path} is another model than the one that is served: reload it (SIGHUP)")
        gc.collect()  # the failure's traceback may hold the old session in a cycle, with all that it has on a GPU
        return open_proven(artifact, find_device(network.provider), _pinned(self._config, network))

    def changed(self) -> list[str]:
        """Names of the networks whose file differs from the one that was tried, and is the same as at the last call."""
        names: list[str] = []
        for name, file in self._files.items():
            before, file.seen = file.seen, file_state(file.path)
            if file.seen is None and before is not None:
                log.warning("the model's file is gone", model=name, path=str(file.path))
            if file.seen not in (None, file.tried) and file.seen == before:
                names.append(name)
        return names


def _require_unchanged(file: ModelFile) -> None:
    """Refuses a file that changed since it was tried: its spec and its graph could be of two artifacts."""
    if file_state(file.path) != file.tried:
        raise StartupError(f"{file.path} changed while it was loaded")


def _network(artifact: Artifact, config: EngineConfig, provider: ProviderName | None = None) -> Network:
    """Opens a network: on a provider, or else on the one that is asked for or, for `auto`, on the first that works."""
    auto = LADDER if config.provider == "auto" else (config.provider,)
    sessions = _on_first_provider(artifact, config, auto if provider is None else (provider,))
    session, spec = sessions[0], artifact.spec
    running = {"provider": session.provider, "precision": session.precision, "max_batch": session.max_batch}
    file = {"target": spec.target, "weights": spec.weights.source, "weights_sha256": spec.weights.sha256}
    log.info("model loaded", model=spec.name, path=str(artifact.path), sessions=len(sessions), **running, **file)
    best = ABILITIES[session.provider].target
    if spec.target != best:
        event = "the model was exported for another provider: its answers are right, but it may be slow"
        remedy = f"mattebox-export --target {best}"
        log.warning(event, model=spec.name, exported_for=spec.target, runs_on=session.provider, remedy=remedy)
    if not spec.weights.trained:
        log.warning("the model's weights are random: its mattes are useless", model=spec.name)
    return Network(sessions, NetworkLimits(session.max_batch), config.observer)


def _on_first_provider(
    artifact: Artifact, config: EngineConfig, providers: Sequence[ProviderName]
) -> list[ArtifactSession]:
    reasons: list[str] = []
    for provider in providers:
        try:
            return _sessions(artifact, config, provider)
        except ProviderUnavailable as error:
            reasons.append(f"on {provider}: {error}")
            if len(providers) > 1:
                log.info("provider left out", model=artifact.spec.name, provider=provider, reason=str(error))
    raise StartupError(f"{artifact.path} can't run {'; '.join(reasons)}")


def _sessions(artifact: Artifact, config: EngineConfig, provider: ProviderName) -> list[ArtifactSession]:
    """Opens a session for each run at once, all in one precision."""
    device = find_device(provider)
    if config.provider == "auto" and ABILITIES[provider].is_tried:
        require_trial(artifact, device, config)
    first = open_proven(artifact, device, config)
    return [first, *(open_proven(artifact, device, _pinned(config, first)) for _ in range(config.sessions - 1))]


def _pinned(config: EngineConfig, running: ArtifactSession | Network) -> EngineConfig:
    """The configuration for further sessions, which run in the precision of those that there are."""
    return replace(config, precision=cast(RequestedPrecision, running.precision))
