"""Opens an artifact on a device: the runtime loads the network, compiled anew or from the cache."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from mattebox_server.engine.cache import CacheEntry, entry_path
from mattebox_server.engine.config import ABILITIES, ProviderName, ProviderUnavailable, input_bounds
from mattebox_server.engine.plan import Plan
from mattebox_server.engine.providers import runtime_of
from mattebox_server.engine.session import Loaded, Maps, Port, Stop
from mattebox_server.errors import StartupError
from mattebox_server.imaging.pixels import Pixels

log = structlog.stdlib.get_logger(__name__)

_IMAGE, _KEEP, _FOREGROUND, _CLASSES = "image", "keep", "foreground", "classes"
_SIGNATURES = {
    "semantic": ((_IMAGE, _KEEP), (_FOREGROUND, _CLASSES)),
    "saliency": ((_IMAGE,), (_FOREGROUND,)),
}
_DTYPES = {_IMAGE: "uint8", _KEEP: "float32", _FOREGROUND: "uint8", _CLASSES: "uint8"}


class ArtifactSession:
    """A Mattebox artifact on one of the runtimes; a `Session`.

    Once its answer to the check photo is known, either `keep_compiled` or `forget_compiled` must be called.

    Attributes:
        max_batch: largest number of photos in one run: as configured, but 1 if the artifact itself says so.
    """

    def __init__(self, plan: Plan, loaded: Loaded, compiled: CacheEntry | None) -> None:
        self.spec = plan.artifact.spec
        self.provider: ProviderName = plan.provider
        self.precision: str = plan.precision
        self.bounds = input_bounds(self.spec, self.provider)
        self.max_batch = loaded.inputs[0].batch or plan.config.max_batch_on(self.provider)
        self._loaded, self._compiled = loaded, compiled

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
        """Runs a batch of photos, as `Session` describes.

        A run that is asked to end does so between two nodes of the graph. TensorRT makes one node of the whole network,
        so that there the run goes on to its end.
        """
        feeds: dict[str, NDArray[Any]] = {_IMAGE: images} | ({} if keep is None else {_KEEP: keep})
        outputs: dict[str, Pixels] = {name: np.empty(images.shape[:3], np.uint8) for name in self._output_names}
        self._loaded.run(feeds, outputs, stop)
        return Maps(outputs[_FOREGROUND], outputs.get(_CLASSES))

    @property
    def is_open(self) -> bool:
        """Whether it can run: not after `close`, nor where OpenVINO had no memory for a run."""
        return self._loaded.is_open

    def close(self) -> None:
        """Frees what the network takes; the session can't run any longer."""
        self._loaded.close()

    @property
    def cache(self) -> str:
        """Either "hit" (the cache had the compiled network), "miss" (it was compiled now) or "none" (it isn't kept)."""
        return "none" if self._compiled is None else "hit" if self._compiled.is_warm else "miss"

    def keep_compiled(self) -> None:
        """Puts the compiled network into the cache, because its answer to the check photo was right."""
        if self._compiled is not None:
            self._compiled.publish()

    def forget_compiled(self) -> None:
        """Deletes the compiled network, in the cache too, because its answer to the check photo was wrong."""
        if self._compiled is not None:
            if self._compiled.is_warm:
                self._compiled.reject("its answer to the check photo was wrong")
            self._compiled.discard()

    @property
    def _output_names(self) -> Sequence[str]:
        return _SIGNATURES[self.spec.kind][1]


def open_session(plan: Plan) -> ArtifactSession:
    """Opens an artifact on a device.

    Raises:
        ProviderUnavailable: the artifact, or part of it, would not run there.
        StartupError: the artifact's inputs and outputs are not what its spec says.
    """
    entry = cache_entry(plan)
    try:
        loaded = _load(plan, entry)
        _check_signature(plan, loaded)
    except BaseException:
        if entry is not None:
            entry.discard()
        raise
    return ArtifactSession(plan, loaded, entry)


def cache_entry(plan: Plan, name: str = "") -> CacheEntry | None:
    """The place in the cache for a compiled model, or for another thing of this name that depends on the same facts.

    Returns:
        The entry; None without a cache, or if the provider has nothing to keep. The CPU and CUDA providers optimise the
        graph of a ResNet-101 in half a second.
    """
    root = plan.config.cache_dir
    if root is None or not ABILITIES[plan.provider].keeps:
        return None
    try:
        return CacheEntry(root, f"{plan.provider}{name}", plan.facts())
    except OSError as error:  # with a read-only home every start takes longer, but the provider works
        log.warning("compiled models can't be kept", folder=str(root), reason=error.strerror)
        return None


def is_compiled(plan: Plan) -> bool:
    """Whether the cache has the compiled model, in whatever state."""
    root = plan.config.cache_dir
    with contextlib.suppress(OSError):
        return root is not None and entry_path(root, plan.provider, plan.facts()).exists()
    return False


def _load(plan: Plan, entry: CacheEntry | None) -> Loaded:
    """Compiles the network, or loads it from the cache; a cached one that the provider refuses is compiled anew."""
    try:
        return runtime_of(plan.provider).load(plan, None if entry is None else entry.folder)
    except ProviderUnavailable:
        raise
    except Exception as error:  # the runtimes raise types of their own, all of them undocumented
        if entry is not None and entry.is_warm:
            entry.reject("the provider can't load it")
            return _load(plan, entry)
        raise ProviderUnavailable(f"{plan.provider} can't load the network: {error}") from error


def _check_signature(plan: Plan, loaded: Loaded) -> None:
    artifact, found = plan.artifact, (loaded.inputs, loaded.outputs)
    for ports, names in zip(found, _SIGNATURES[artifact.spec.kind], strict=True):
        if len(ports) != len(names) or any(name not in port.names for name, port in zip(names, ports, strict=True)):
            said = [[*map(_name, side)] for side in found]
            raise StartupError(f"{artifact.path} says that it is {artifact.spec.kind}, but its graph has {said}")
        for name, port in zip(names, ports, strict=True):
            if port.dtype != _DTYPES[name]:
                raise StartupError(f"{artifact.path}: {name} must be {_DTYPES[name]}, not {port.dtype}")


def _name(port: Port) -> str:
    return "/".join(sorted(port.names))
