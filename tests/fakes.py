"""A session that the tests control, in place of onnxruntime's."""

import threading

import numpy as np
from numpy.typing import NDArray

from mattebox_server.engine.engine import Engine
from mattebox_server.engine.network import BatchLimits, Network
from mattebox_server.engine.options import ProviderName
from mattebox_server.engine.session import Maps, Session
from mattebox_server.errors import StartupError
from mattebox_server.pixels import Pixels
from mattebox_server.spec import ModelSpec, Stretch, Weights


def spec(name: str) -> ModelSpec:
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
    )


class FakeSession:
    """Answers with the photo's own first channel as foreground, once `gate` is open."""

    provider: ProviderName = "cpu"
    precision = "fp32"
    bounds: tuple[int, int] | None = None

    def __init__(self, name: str = "fake") -> None:
        self.spec = spec(name)
        self.gate = threading.Event()
        self.gate.set()
        self.ran: list[int] = []  # the first photo of each batch
        self.batches: list[int] = []
        self.kept: list[list[float]] = []

    def run(self, images: Pixels, keep: NDArray[np.float32] | None) -> Maps:
        assert self.gate.wait(10)
        assert keep is not None
        self.ran.append(int(images[0, 0, 0, 0]))
        self.batches.append(len(images))
        self.kept.append(keep[0].tolist())
        if (images[:, 0, 0, 1] == 66).any():
            raise RuntimeError("the device is on fire")
        if (images[:, 0, 0, 1] == 67).any():
            return Maps(images[:, :1, :1, 0], None)
        return Maps(images[..., 0], images[..., 2])


def engine_of(*sessions: FakeSession, max_batch: int = 1, max_queue: int = 64) -> Engine:
    """An engine with one session a network."""
    return Engine([Network([session], BatchLimits(max_batch, 0.05, max_queue)) for session in sessions], NoFiles())


class NoFiles:
    """An `Opener` that has nothing to open."""

    def open(self, old: Network) -> Network:
        raise StartupError(f"{old.spec.name} has no file")

    def open_session(self, network: Network) -> Session:
        raise StartupError(f"{network.spec.name} has no file")

    def changed(self) -> list[str]:
        return []
