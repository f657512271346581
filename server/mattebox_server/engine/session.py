"""One network, loaded and ready to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_server.engine.providers import ProviderName, Threads, create_session
from mattebox_server.errors import StartupError
from mattebox_server.pixels import Pixels
from mattebox_server.spec import ModelSpec, SpecError

_IMAGE, _KEEP, _FOREGROUND, _CLASSES = "image", "keep", "foreground", "classes"
_SIGNATURES: dict[str, tuple[list[str], list[str]]] = {
    "semantic": ([_IMAGE, _KEEP], [_FOREGROUND, _CLASSES]),
    "saliency": ([_IMAGE], [_FOREGROUND]),
}


@dataclass(frozen=True)
class Maps:
    """What the network found in a batch.

    Args:
        foreground: uint8 (N, h, w), round(255 x probability of the subject).
        classes: uint8 (N, h, w), index of the likeliest class; None from a saliency network.
    """

    foreground: Pixels
    classes: Pixels | None


class Session(Protocol):
    """What the engine needs of a network; onnxruntime's is one, tests bring their own."""

    @property
    def spec(self) -> ModelSpec:
        """The artifact's description of itself."""
        ...

    @property
    def provider(self) -> ProviderName:
        """Execution provider that really runs it."""
        ...

    @property
    def precision(self) -> str:
        """Numeric precision that it really runs in."""
        ...

    def run(self, images: Pixels, keep: NDArray[np.float32] | None) -> Maps:
        """Runs a batch: images uint8 (N, h, w, 3) BGR, keep float32 (N, C) of 0 and 1, or None for saliency."""
        ...


class OnnxSession:
    """A Mattebox artifact on onnxruntime."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, provider: ProviderName) -> None:
        self._session = session
        self.spec = spec
        self.provider: ProviderName = provider
        self.precision: str = spec.precision

    def run(self, images: Pixels, keep: NDArray[np.float32] | None) -> Maps:
        """See `Session.run`."""
        feeds: dict[str, NDArray[Any]] = {_IMAGE: images}
        if keep is not None:
            feeds[_KEEP] = keep
        outputs = self._session.run(None, feeds)
        return Maps(outputs[0], outputs[1] if len(outputs) > 1 else None)


@dataclass(frozen=True)
class Artifact:
    """A model file, read and checked as far as that goes without a provider."""

    path: Path
    data: bytes
    spec: ModelSpec


def read_artifact(path: Path) -> Artifact:
    """Reads a model file and the spec in it.

    Raises:
        StartupError: it can't be read, or is no Mattebox artifact.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StartupError(f"can't read the model {path}: {error.strerror}") from error
    try:
        # Metadata costs onnxruntime a whole session, but an unoptimised one is cheap and needs no second library.
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        probe = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        spec = ModelSpec.from_metadata(probe.get_modelmeta().custom_metadata_map)
    except SpecError as error:
        raise StartupError(f"{path} is no Mattebox model: {error}") from error
    except Exception as error:  # onnxruntime raises its own types, all of them undocumented
        raise StartupError(f"{path} is no ONNX model that onnxruntime {ort.__version__} reads: {error}") from error
    _check_signature(path, probe, spec)
    return Artifact(path, data, spec)


def _check_signature(path: Path, session: ort.InferenceSession, spec: ModelSpec) -> None:
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if names != _SIGNATURES[spec.kind]:
        raise StartupError(f"{path} says that it is {spec.kind}, but has inputs and outputs {names}")
    types = {value.type for value in [session.get_inputs()[0], *session.get_outputs()]}
    if types != {"tensor(uint8)"}:
        raise StartupError(f"{path} must take and give uint8, not {types}")


def open_session(artifact: Artifact, provider: ProviderName, threads: Threads) -> OnnxSession:
    """Opens an artifact on one provider.

    Raises:
        ProviderUnavailable: the provider can't run it here.
    """
    return OnnxSession(create_session(artifact.data, provider, threads), artifact.spec, provider)
