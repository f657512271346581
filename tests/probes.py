"""Sessions, a device and a clock that are controlled by the tests of the batcher."""

import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes import CHECK_PHOTO, CHECK_SHAPE, spec
from mattebox_server.engine import selfcheck
from mattebox_server.engine.batcher import Batcher
from mattebox_server.engine.config import ProviderName
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.network import Network, NetworkLimits, Replica
from mattebox_server.engine.session import Maps, Stop
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import ModelSpec

GOOD, RAISES, EXITS, BAD_FOREGROUND, BAD_CLASSES, TOO_LARGE = range(6)
POISON = [RAISES, EXITS, BAD_FOREGROUND, BAD_CLASSES]
SMALL, WIDE, TALL = (3, 4), (3, 5), (6, 4)
ENOUGH_S = 20.0  # longest wait for anything that must happen, and usually happens at once
ROOMY = NetworkLimits(max_batch=4, passed_over_s=1000.0)


def photo(number: int, mode: int = GOOD, shape: tuple[int, int] = SMALL) -> Pixels:
    image = np.zeros((*shape, 3), np.uint8)
    image[..., 0], image[..., 1] = number, mode
    return image


def code(kept: frozenset[int]) -> int:
    return sum(2**index for index in kept)


class Clock:
    """Takes the place of `time.monotonic` in the batcher."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True, eq=False)
class Batch:
    session: "Probe"
    numbers: list[int]
    shape: tuple[int, ...]


@dataclass(eq=False)
class Device:
    """The device that all sessions of a test share. It collects problems, because the batcher catches exceptions."""

    clock: Clock | None = None
    runs: int = 1
    changed: threading.Condition = field(default_factory=threading.Condition)
    inside: list[Batch] = field(default_factory=list[Batch])
    batches: list[Batch] = field(default_factory=list[Batch])
    problems: list[str] = field(default_factory=list[str])
    check: Callable[[Batch], str] = field(default=lambda _: "")

    def enter(self, batch: Batch) -> None:
        with self.changed:
            if any(other.session is batch.session for other in self.inside):
                self.problems.append("a session runs twice at once")
            self.inside.append(batch)
            self.batches.append(batch)
            if len(self.inside) > self.runs:
                self.problems.append(f"{len(self.inside)} runs at once")
            if problem := self.check(batch):
                self.problems.append(problem)
            self.changed.notify_all()

    def leave(self, batch: Batch) -> None:
        with self.changed:
            self.inside.remove(batch)
            self.changed.notify_all()

    def until(self, happened: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(happened, ENOUGH_S)

    def notice(self, _: "Future[Inference]") -> None:
        with self.changed:
            self.changed.notify_all()

    @property
    def ran(self) -> list[list[int]]:
        return [batch.numbers for batch in self.batches]


class Probe:
    """A session that answers with the photo's number as foreground, and its kept classes, as one number, as classes.

    A held session stays in each run until `step`, but for runs of photos that it has run before.
    """

    provider: ProviderName = "cpu"
    precision = "fp32"
    bounds: tuple[int, int] | None = None
    is_open = True

    def __init__(self, device: Device, name: str = "net", *, saliency: bool = False, cost_s: float = 0.0) -> None:
        # Its answer to the check photo: the photo's first channel, and the number of the kept classes everywhere.
        answer = CHECK_PHOTO[..., 0], np.full(CHECK_SHAPE[:2], code(spec(name).foreground_classes), np.uint8)
        semantic = spec(name).model_copy(update={"expectation": selfcheck.expect(8, 8, 0, *answer)})
        kind = {"kind": "saliency", "labels": ("thing",)}
        self.spec: ModelSpec = semantic.model_copy(update=kind) if saliency else semantic
        self.device, self.cost_s = device, cost_s
        self.held = False
        self.nap_s = 0.0
        self.fails_from = 1000  # photos
        self.room = 1000  # photos, for which the device has memory
        self.broken = False
        self.lies = False  # gives the wrong answer to the check photo
        self.checks = 0  # runs of the check photo
        self.lasts = 10**9  # runs, and then it breaks
        self._permits = threading.Semaphore(0)
        self._seen: set[int] = set()

    def hold(self) -> "Probe":
        self.held = True
        return self

    def step(self) -> None:
        self._permits.release()

    def open(self) -> None:
        self.held = False
        self.step()

    def run(self, images: Pixels, keep: NDArray[np.float32] | None, stop: Stop | None = None) -> Maps:  # noqa: ARG002
        if images.shape[1:] == CHECK_SHAPE:
            self.checks += 1
            return self._answer(np.zeros_like(images) if self.lies else images, keep)
        batch = Batch(self, images[:, 0, 0, 0].tolist(), images.shape[1:])
        self.device.enter(batch)
        try:
            if self.held and not self._seen & set(batch.numbers) and not self._permits.acquire(timeout=ENOUGH_S):
                self.device.problems.append("nobody stepped")
            if self.device.clock:
                self.device.clock.now_s += self.cost_s
            if self.nap_s:
                sleep(self.nap_s)
            return self._answer(images, keep)
        finally:
            self._seen |= set(batch.numbers)
            self.device.leave(batch)

    def _answer(self, images: Pixels, keep: NDArray[np.float32] | None) -> Maps:
        modes = set(images[:, 0, 0, 1].tolist())
        self.lasts -= 1
        if TOO_LARGE in modes or len(images) > self.room:
            raise RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 384000000")
        if RAISES in modes or len(images) >= self.fails_from or self.broken or self.lasts < 0:
            raise RuntimeError("the device is on fire")
        if EXITS in modes:
            raise SystemExit(1)
        foreground = images[..., 0]
        if BAD_FOREGROUND in modes:
            return Maps(foreground[:, :1], None)
        if self.spec.kind == "saliency":
            if keep is not None:
                self.device.problems.append("a saliency network was given keep")
            return Maps(foreground[:, :, :1] if BAD_CLASSES in modes else foreground, None)
        assert keep is not None
        assert keep.dtype == np.float32
        codes = (keep @ np.array([1, 2, 4], np.float32)).astype(np.uint8)
        classes = np.zeros_like(foreground) + codes[:, np.newaxis, np.newaxis]
        return Maps(foreground, classes[:-1] if BAD_CLASSES in modes else classes)


@dataclass
class Bench:
    device: Device
    sessions: list[Probe]
    networks: dict[str, Network]
    batcher: Batcher = field(init=False)
    failed: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])  # networks, attempts without an answer
    first: "Future[Inference]" = field(default_factory=Future[Inference])

    def note_failing(self, network: Network, attempts: int, _: Callable[[Replica], None]) -> None:
        with self.device.changed:
            self.failed.append((network.spec.name, attempts))
            self.device.changed.notify_all()

    def waiting(self, name: str) -> int:
        return len(self.networks[name].waiting)

    def release(self) -> None:
        for session in self.sessions:
            session.open()

    def finish(self, futures: "list[Future[Inference]]") -> None:
        self.release()
        wait(futures, ENOUGH_S)

    def submit(
        self,
        number: int,
        name: str = "net",
        *,
        mode: int = GOOD,
        shape: tuple[int, int] = SMALL,
        kept: frozenset[int] = frozenset(),
        deadline_s: float | None = None,
    ) -> "Future[Inference]":
        return self.batcher.submit(self.networks[name], photo(number, mode, shape), kept, deadline_s)

    def start(self, number: int, name: str = "net", *, mode: int = GOOD) -> "Future[Inference]":
        """Submits a photo to a free device, which runs it alone, and waits until it runs."""
        future = self.submit(number, name, mode=mode)
        self.device.until(lambda: any(batch.numbers == [number] for batch in self.device.inside))
        return future


@contextmanager
def bench(
    device: Device, sessions: list[Probe], limits: NetworkLimits | Mapping[str, NetworkLimits] = ROOMY, runs: int = 1
) -> Generator[Bench]:
    device.runs = runs
    networks: dict[str, Network] = {}
    for name in dict.fromkeys(probe.spec.name for probe in sessions):
        replicas = [probe for probe in sessions if probe.spec.name == name]
        networks[name] = Network(replicas, limits if isinstance(limits, NetworkLimits) else limits[name])
    the = Bench(device, sessions, networks)
    the.batcher = Batcher(runs, the.note_failing)
    try:
        yield the
    finally:
        the.release()
        the.batcher.close()
    assert device.problems == []
    assert device.inside == []


@contextmanager
def busy(
    device: Device, limits: NetworkLimits = ROOMY, *, saliency: bool = False, cost_s: float = 0.0
) -> Generator[Bench]:
    """A bench with one session, which runs photo 0 until it is released."""
    with bench(device, [Probe(device, saliency=saliency, cost_s=cost_s).hold()], limits) as the:
        the.first = the.start(0)
        yield the


def device_with_clock(monkeypatch: pytest.MonkeyPatch) -> Device:
    clock = Clock()
    for module in ("batcher", "turn", "inference"):
        monkeypatch.setattr(f"mattebox_server.engine.{module}.time", SimpleNamespace(monotonic=clock))
    return Device(clock)


def advance(device: Device, seconds: float) -> None:
    assert device.clock
    device.clock.now_s += seconds


def now_s(device: Device) -> float:
    assert device.clock
    return device.clock.now_s


def numbers(futures: "list[Future[Inference]]") -> list[int]:
    return [int(future.result(ENOUGH_S).foreground[0, 0]) for future in futures]
