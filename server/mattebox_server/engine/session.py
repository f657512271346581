"""A session: one network that is loaded into onnxruntime and ready to run."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mattebox_server.engine.artifact import Artifact
from mattebox_server.engine.config import GPU_PROVIDERS, EngineConfig, ProviderName, input_bounds
from mattebox_server.engine.providers import Device, create_session
from mattebox_server.errors import StartupError
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import ModelSpec

_Feeds = dict[str, NDArray[Any]]  # inputs by name
_Run = Callable[[_Feeds, ort.RunOptions], list[NDArray[Any]]]
_IMAGE, _KEEP, _FOREGROUND, _CLASSES = "image", "keep", "foreground", "classes"
_SIGNATURES: dict[str, tuple[list[str], list[str]]] = {
    "semantic": ([_IMAGE, _KEEP], [_FOREGROUND, _CLASSES]),
    "saliency": ([_IMAGE], [_FOREGROUND]),
}
_BOUND_SHAPES = 8  # number of shapes whose buffers are kept; six aspects make up nearly all photos


@dataclass(frozen=True)
class Maps:
    """What the network found in a batch of photos.

    Args:
        foreground: uint8 (N, h, w), round(255 x probability of the subject).
        classes: uint8 (N, h, w), index of the likeliest class; None from a saliency network.
    """

    foreground: Pixels
    classes: Pixels | None


class Stop:
    """A request to end a run early, because nobody waits for its answer. Any thread may make it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._act: Callable[[], None] = lambda: None
        self.asked = False

    def ask(self) -> None:
        """Asks the run to end now."""
        with self._lock:
            self.asked = True
            self._act()

    def on_ask(self, act: Callable[[], None]) -> None:
        """Sets the function that ends the run, and calls it at once if the run was asked to end before.

        The function is called under a lock, so that it may neither wait nor use this object.
        """
        with self._lock:
            self._act = act
            if self.asked:
                act()


class Session(Protocol):
    """What the engine needs of a session. `OnnxSession` is the real one; the tests have others.

    Attributes:
        spec: the artifact's description of itself.
        provider: execution provider that really runs the network.
        precision: numeric precision that the network really runs in.
        bounds: shortest and longest side of its images, in pixels; None if only the spec limits them.
    """

    spec: ModelSpec
    provider: ProviderName
    precision: str
    bounds: tuple[int, int] | None

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
        """Runs a batch of photos. It may raise any exception, above all once `stop` was asked for.

        Args:
            images: uint8 (N, h, w, 3) BGR at the network's size.
            keep: float32 (N, C), 1 for each class that is the subject, else 0; None for a saliency network.
            stop: request to end the run early; a session that can't do that runs to the end.
        """
        ...


class OnnxSession:
    """A Mattebox artifact on onnxruntime.

    Once its answer to the check photo is known, either `keep_compiled` or `forget_compiled` must be called.

    Attributes:
        max_batch: largest number of photos in one run: as configured, but 1 if the artifact itself says so.
    """

    def __init__(self, artifact: Artifact, device: Device, config: EngineConfig) -> None:
        """Opens an artifact on a device.

        Raises:
            ProviderUnavailable: the provider can't run the artifact on this device.
            StartupError: the artifact's inputs and outputs are not what its spec says.
        """
        session, precision, self._compiled = create_session(artifact, device, config)
        _check_signature(artifact, session)
        self.spec = artifact.spec
        self.provider: ProviderName = device.provider
        self.precision: str = precision
        self.bounds = input_bounds(artifact.spec, device.provider)
        self.max_batch = 1 if isinstance(session.get_inputs()[0].shape[0], int) else config.max_batch_on(self.provider)
        on_gpu = device.provider in GPU_PROVIDERS
        self._run: _Run = _Bound(session, "cuda").run if on_gpu else partial(session.run, None)

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
        """Runs a batch of photos, as `Session` describes.

        A run that is asked to end does so between two nodes of the graph. OpenVINO and TensorRT make one node of the
        whole network, so that there the run goes on to its end.
        """
        feeds: _Feeds = {_IMAGE: images}
        if keep is not None:
            feeds[_KEEP] = keep
        options = ort.RunOptions()
        if stop is not None:
            stop.on_ask(partial(setattr, options, "terminate", True))
        outputs = self._run(feeds, options)
        return Maps(outputs[0], outputs[1] if len(outputs) > 1 else None)

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


class _Buffers(NamedTuple):
    binding: ort.IOBinding
    inputs: dict[str, ort.OrtValue]
    outputs: list[ort.OrtValue]


class _Bound:
    """Runs a session on buffers of the device, which are made once for each shape of a batch and used again.

    Without such buffers onnxruntime would allocate and copy in every run. A run only queues its work on the device's
    stream: the results are there after `synchronize_outputs`.
    """

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device = session, device
        self._outputs = [output.name for output in session.get_outputs()]
        self._bindings: dict[tuple[int, ...], _Buffers] = {}

    def run(self, feeds: _Feeds, options: ort.RunOptions | None = None) -> list[NDArray[Any]]:
        shape = feeds[_IMAGE].shape
        try:
            # The buffers in use go to the end, so that the first are those that were not used for the longest time.
            self._bindings[shape] = buffers = self._bindings.pop(shape, None) or self._bind(feeds)
            while len(self._bindings) > _BOUND_SHAPES:
                del self._bindings[next(iter(self._bindings))]
            for name, value in feeds.items():
                buffers.inputs[name].update_inplace(np.ascontiguousarray(value))
            self._session.run_with_iobinding(buffers.binding, options)
            buffers.binding.synchronize_outputs()
            return [output.numpy().copy() for output in buffers.outputs]  # on a CPU numpy() is a view of the buffer
        except BaseException:
            self._bindings.clear()  # if the device ran out of memory, the next run needs what these buffers hold
            raise

    def _bind(self, feeds: _Feeds) -> _Buffers:
        binding = self._session.io_binding()
        inputs = {name: self._buffer(value.shape, value.dtype) for name, value in feeds.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [self._buffer(feeds[_IMAGE].shape[:3], np.dtype(np.uint8)) for _ in self._outputs]
        for name, value in zip(self._outputs, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Buffers(binding, inputs, outputs)

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, self._device, 0)


def _check_signature(artifact: Artifact, session: ort.InferenceSession) -> None:
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if names != _SIGNATURES[artifact.spec.kind]:
        raise StartupError(f"{artifact.path} says that it is {artifact.spec.kind}, but has inputs and outputs {names}")
    types = {value.type for value in [session.get_inputs()[0], *session.get_outputs()]}
    if types != {"tensor(uint8)"}:
        raise StartupError(f"{artifact.path} must take and give uint8, not {types}")
