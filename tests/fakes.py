"""Sessions and model files that the tests control, in place of onnxruntime's and real ones."""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from mattebox_server.engine import selfcheck
from mattebox_server.engine.config import ProviderName
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.lifecycle import Backoff
from mattebox_server.engine.network import Network, NetworkLimits
from mattebox_server.engine.session import Maps, Stop
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import ModelSpec, Stretch, Weights

CHECK_SHAPE = (8, 8, 3)  # of the check photo; no other photo of a test has it
CHECK_PHOTO = selfcheck.synthetic_photo(8, 8, 0)


def spec(name: str) -> ModelSpec:
    """The description of a network that a FakeSession stands for."""
    return ModelSpec(
        name=name,
        kind="semantic",
        labels=("background", "thing", "other"),
        resize=Stretch(width_px=4, height_px=3),
        precision="fp32",
        target="cpu",
        weights=Weights(source="test", sha256="0" * 64, trained=True),
        licence="none",
        tools={},
        expectation=selfcheck.expect(8, 8, 0, CHECK_PHOTO[..., 0], CHECK_PHOTO[..., 2]),
    )


class FakeSession:
    """Answers with the photo's first channel as foreground and its third as classes, once `gate` is open.

    It fails on photos whose first pixel has 66 as its second channel; where it is `broken`, on the check photo too.
    """

    provider: ProviderName = "cpu"
    precision = "fp32"
    bounds: tuple[int, int] | None = None
    is_open = True

    def __init__(self, name: str = "fake") -> None:
        self.spec = spec(name)
        self.gate = threading.Event()
        self.gate.set()
        self.stopped, self.can_stop, self.running = threading.Event(), True, False
        self.broken = False
        self.checks = 0  # runs of the check photo
        self.ran: list[int] = []  # the first photo of each batch
        self.batches: list[int] = []
        self.kept: list[list[float]] = []

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:
        if stop is not None:
            stop.on_ask(self.stopped.set)
        gate, until_s = self.gate, time.monotonic() + 10
        self.running = True
        try:
            while not gate.wait(0.001):
                assert time.monotonic() < until_s
                if self.stopped.is_set() and self.can_stop:
                    self.stopped.clear()
                    raise RuntimeError("stopped")
        finally:
            self.running = False
        if self.broken:
            raise RuntimeError("the device is on fire")
        if images.shape[1:] == CHECK_SHAPE:
            self.checks += 1
            return Maps(images[..., 0], images[..., 2])
        assert keep is not None
        self.ran.append(int(images[0, 0, 0, 0]))
        self.batches.append(len(images))
        self.kept.append(keep[0].tolist())
        if (images[:, 0, 0, 1] == 66).any():
            raise RuntimeError("the device is on fire")
        if (images[:, 0, 0, 1] == 67).any():
            return Maps(images[:, :1, :1, 0], None)
        return Maps(images[..., 0], images[..., 2])


class FakeFiles:
    """An `Opener` that opens FakeSessions, once `gate` is open and all of `failures` have been raised."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.opened: list[FakeSession] = []
        self.calls = self.inside = self.most_inside = 0
        self.news: list[str] = []

    def open(self, old: Network) -> Network:
        return Network([self._session(old.spec.name)], old.limits)

    def open_session(self, network: Network) -> FakeSession:
        return self._session(network.spec.name)

    def changed(self) -> list[str]:
        names, self.news = self.news, []
        return names

    def _session(self, name: str) -> FakeSession:
        self.calls, self.inside = self.calls + 1, self.inside + 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            assert self.gate.wait(10)
            if self.failures:
                raise self.failures.pop(0)
            self.opened.append(FakeSession(name))
            return self.opened[-1]
        finally:
            self.inside -= 1


def engine_of(
    *sessions: FakeSession,
    max_batch: int = 1,
    files: FakeFiles | None = None,
    backoff: Backoff | None = None,
) -> Engine:
    """An engine with one network for each session."""
    return Engine(
        [Network([session], NetworkLimits(max_batch)) for session in sessions], files or FakeFiles(), 1, backoff
    )
