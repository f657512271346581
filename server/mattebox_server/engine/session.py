"""What the engine needs of a session, whatever runtime runs it; no runtime is imported here."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mattebox_server.engine.config import ProviderName
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import ModelSpec


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

    def forget(self) -> None:
        """Forgets that function, because the run is over. It isn't being called when this returns."""
        with self._lock:
            self._act = lambda: None


class Session(Protocol):
    """What the engine needs of a session. `ArtifactSession` is the real one; the tests have others.

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

    @property
    def is_open(self) -> bool:
        """Whether it can run. A session may close itself in a run after which its runtime can't be trusted."""
        ...

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
        """Runs a batch of photos. It may raise any exception, above all once `stop` was asked for.

        Args:
            images: uint8 (N, h, w, 3) BGR at the network's size.
            keep: float32 (N, C), 1 for each class that is the subject, else 0; None for a saliency network.
            stop: request to end the run early; a session that can't do that runs to the end.
        """
        ...


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Args:
        names: its names; OpenVINO may give a tensor several.
        dtype: type of its numbers, as numpy names it.
        batch: length of its first axis; None if that is free.
    """

    names: frozenset[str]
    dtype: str
    batch: int | None


class Loaded(Protocol):
    """A network that a runtime has loaded, and that one thread at a time may run.

    Attributes:
        inputs: inputs of the graph, in its order.
        outputs: outputs of the graph, in its order.
    """

    inputs: Sequence[Port]
    outputs: Sequence[Port]

    @property
    def is_open(self) -> bool:
        """Whether it can run. It may close itself in a run after which the runtime can't be trusted."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, Pixels], stop: Stop | None) -> None:
        """Runs the network into given buffers. It may raise any exception, above all once `stop` was asked for.

        Args:
            feeds: the inputs by name; nobody changes them during the run.
            outputs: buffers uint8 (N, h, w) for the outputs, by name, of which nothing is used after the run.
            stop: request to end the run early.
        """
        ...

    def close(self) -> None:
        """Frees what the network takes; it can't run any longer."""
        ...
