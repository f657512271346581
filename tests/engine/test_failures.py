"""Sessions that fail, and devices without memory: the outcome of the photos, the session and later batches."""

from __future__ import annotations

import contextlib
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mattebox_server.engine import network as network_module
from mattebox_server.engine.batcher import Batcher
from mattebox_server.engine.inference import Inference, is_out_of_memory
from mattebox_server.engine.network import BatchSize, Network, NetworkLimits, Replica
from mattebox_server.errors import InferenceFailed, NotServing, Overloaded
from probes import (
    ENOUGH_S,
    GOOD,
    RAISES,
    ROOMY,
    TOO_LARGE,
    Bench,
    Device,
    Probe,
    bench,
    busy,
    device_with_clock,
    numbers,
    photo,
)

ALONE = NetworkLimits(1, 1000.0)


@pytest.fixture(name="device")
def _device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return device_with_clock(monkeypatch)


# Words


@pytest.mark.parametrize(
    "words",
    [
        "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 3840",
        "bfc_arena.cc: Available memory of 1024 is smaller than requested bytes of 2048",
        "cuda_call.cc:121 CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "[executionContext.cpp::getOutputTensor] Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)",
        "Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\nFailed to allocate 30 bytes of memory",
        "Could not allocate memory",
        "std::bad_alloc",
        "Cannot allocate memory",
    ],
)
def test_words_of_a_device_without_memory(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "the device is on fire",
        "CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA failure 700: an illegal memory access was encountered",
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: image",
    ],
)
def test_words_of_other_failures(words: str) -> None:
    assert not is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(MemoryError(words))


# A device without memory


def test_a_batch_without_room_is_halved_and_so_are_those_after_it(device: Device) -> None:
    with capture_logs() as logs, busy(device) as the:
        the.sessions[0].room = 2
        futures = [the.submit(n) for n in range(1, 9)]
        the.release()
        assert numbers(futures) == list(range(1, 9))
        assert [future.result().batch_size for future in futures] == [2] * 8
    assert device.ran == [[0], [1, 2, 3, 4], [1, 2], [3, 4], [5, 6], [7, 8]]
    assert [(entry["event"], entry["photos"], entry["max_batch"]) for entry in logs] == [
        ("the device is out of memory", 4, 2)
    ]
    assert "384000000" in logs[0]["reason"]


def test_halves_go_on_until_they_fit(device: Device) -> None:
    with busy(device) as the:
        the.sessions[0].room = 1
        futures = [the.submit(n) for n in range(1, 5)]
        the.release()
        assert numbers(futures) == [1, 2, 3, 4]
    # The second half isn't tried whole: it is as large as the first, which had no room.
    assert device.ran == [[0], [1, 2, 3, 4], [1, 2], [1], [2], [3], [4]]


def test_an_odd_batch(device: Device) -> None:
    with busy(device) as the:
        the.sessions[0].room = 2
        futures = [the.submit(n) for n in (1, 2, 3)]
        the.release()
        assert numbers(futures) == [1, 2, 3]
    assert device.ran == [[0], [1, 2, 3], [1, 2], [3]]


def test_one_photo_without_room_is_asked_to_come_back(device: Device) -> None:
    """A lack of memory never takes the session out of service, however often it occurs."""
    with busy(device) as the:
        futures = [the.submit(n, mode=TOO_LARGE if n == 2 else GOOD) for n in (1, 2, 3, 4)]
        the.release()
        error = futures[1].exception(ENOUGH_S)
        assert isinstance(error, Overloaded)
        assert (error.limit, error.retry_after_s > 0) == ("device_memory", True)
        assert numbers([futures[0], *futures[2:]]) == [1, 3, 4]
        for number in range(10):
            assert isinstance(the.submit(number, mode=TOO_LARGE).exception(ENOUGH_S), Overloaded)
        assert numbers([the.submit(5)]) == [5]
        assert the.failed == []


def test_a_batch_without_room_that_holds_a_poisonous_photo(device: Device) -> None:
    with busy(device) as the:
        the.sessions[0].room = 2
        futures = [the.submit(n, mode=RAISES if n == 2 else GOOD) for n in (1, 2, 3, 4)]
        the.release()
        assert isinstance(futures[1].exception(ENOUGH_S), InferenceFailed)
        assert numbers([futures[0], *futures[2:]]) == [1, 3, 4]
    assert device.ran == [[0], [1, 2, 3, 4], [1, 2], [3, 4], [1], [2]]


def test_a_batch_that_was_chosen_before_another_replica_ran_out_of_memory(device: Device) -> None:
    sessions = [Probe(device).hold(), Probe(device).hold()]
    with bench(device, sessions, runs=2) as the:
        for number in (1, 2):
            the.start(number)
        futures = [the.submit(n) for n in range(10, 18)]
        for session in sessions:
            session.room = 2
            session.step()  # ends the first run, and takes four
        device.until(lambda: len(device.inside) == 2 and all(len(batch.numbers) == 4 for batch in device.inside))
        the.release()
        assert numbers(futures) == list(range(10, 18))
    assert max(len(batch.numbers) for batch in device.batches[4:]) == 2


def test_larger_batches_are_tried_again_after_many_that_went_well(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "_FULL_RUNS_TO_GROW", 3)
    with capture_logs() as logs, busy(device) as the:
        the.sessions[0].room = 2
        futures = [the.submit(n) for n in range(1, 11)]
        the.release()
        assert numbers(futures) == list(range(1, 11))
    # Halves count: [1, 2], [3, 4] and [5, 6] went well, so that four are tried, which have no room.
    assert device.ran == [[0], [1, 2, 3, 4], [1, 2], [3, 4], [5, 6], [7, 8, 9, 10], [7, 8], [9, 10]]
    events = [entry["event"] for entry in logs]
    assert events == ["the device is out of memory", "larger batches are tried again", "the device is out of memory"]


@given(limit=st.integers(1, 256), runs=st.lists(st.tuples(st.integers(1, 256), st.booleans()), max_size=60))
def test_a_batch_stays_within_its_bounds(limit: int, runs: list[tuple[int, bool]]) -> None:
    size = BatchSize(limit, limit)
    for photos, fits in runs:
        tried, before = min(photos, size.now), size.now
        if fits:
            assert size.note_success(tried) == (size.now > before)
        else:
            size.shrink(tried)
            assert size.now == max(1, (tried + 1) // 2) or size.now == before == 1
        assert 1 <= size.now <= limit


def test_onnxruntime_without_memory(colour_model: Path) -> None:
    """A process whose memory is limited: onnxruntime's error is known as a lack of memory."""
    code = f"""
import asyncio, resource
import numpy as np
from pathlib import Path
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.config import EngineConfig

engine = load_engine([Path({str(colour_model)!r})], EngineConfig(provider="cpu", max_batch=8))
image = np.zeros((1000, 1000, 3), np.uint8)

async def ask(count):
    calls = [engine.infer(engine.network(""), image, frozenset({{1}}), None) for _ in range(count)]
    return [answer.batch_size for answer in await asyncio.gather(*calls)]

asyncio.run(ask(1))
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 2**20, -1))
sizes = asyncio.run(ask(9))
assert sizes[0] == 1 and 1 <= max(sizes[1:]) < 8, sizes
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Failed to allocate memory" in done.stdout + done.stderr


def test_openvino_without_memory(colour_model: Path) -> None:
    """OpenVINO can't be trusted after that: the session is opened anew, and then smaller photos are answered."""
    pytest.importorskip("openvino")
    code = f"""
import asyncio, resource, time
import numpy as np
from pathlib import Path
from mattebox_server.engine.loading import load_engine
from mattebox_server.engine.config import EngineConfig
from mattebox_server.errors import NotServing, Overloaded

engine = load_engine([Path({str(colour_model)!r})], EngineConfig(provider="openvino", max_batch=8))

async def ask(side):
    image = np.zeros((side, side, 3), np.uint8)
    return (await engine.infer(engine.network(""), image, frozenset({{1}}), None)).batch_size

assert asyncio.run(ask(100)) == 1
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 100 * 2**20, -1))
try:
    asyncio.run(ask(3000))
    raise SystemExit("it had memory")
except Overloaded as error:
    assert error.limit == "device_memory"
until_s = time.monotonic() + 60
while True:
    try:
        assert asyncio.run(ask(100)) == 1
        break
    except NotServing:
        assert time.monotonic() < until_s
        time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "bytes of memory" in done.stdout
    assert "session rebuilt" in done.stdout


# A session that fails


def break_session(the: Bench, count: int = 3) -> list[BaseException | None]:
    the.sessions[0].broken = True
    return [the.submit(n).exception(ENOUGH_S) for n in range(count)]


def test_a_session_that_fails_three_times_in_a_row_is_out_of_service(device: Device) -> None:
    with bench(device, [Probe(device)], ALONE) as the:
        for error in break_session(the, 2):
            assert isinstance(error, InferenceFailed)
        the.sessions[0].broken = False
        assert numbers([the.submit(9)]) == [9]  # the count starts again
        for error in break_session(the, 3):
            assert isinstance(error, InferenceFailed)
        assert the.failed == [("net", 0)]
        assert not the.networks["net"].is_serving
        with pytest.raises(NotServing, match="the model net failed and is being rebuilt") as caught:
            the.submit(10)
        assert (caught.value.retry_after_s > 0, caught.value.limit) == (True, "rebuilding")


def test_a_session_that_closes_itself_is_out_of_service_at_once(device: Device) -> None:
    with bench(device, [Probe(device)], ALONE) as the:
        the.sessions[0].broken, the.sessions[0].is_open = True, False
        assert isinstance(the.submit(1).exception(ENOUGH_S), InferenceFailed)
        assert the.failed == [("net", 0)]


def test_photos_that_make_a_session_fail_do_not_take_it_out_of_service(device: Device) -> None:
    """However many of them come, the session stays in service, because its answer to the check photo is right."""
    with capture_logs() as logs, bench(device, [Probe(device)], ALONE) as the:
        for number in range(10):
            assert isinstance(the.submit(number, mode=RAISES).exception(ENOUGH_S), InferenceFailed)
        assert numbers([the.submit(20)]) == [20]
        for number in range(2):  # an answer lets the count start anew
            assert isinstance(the.submit(number, mode=RAISES).exception(ENOUGH_S), InferenceFailed)
        assert (the.sessions[0].checks, the.failed) == (3, [])
    told = "a session failed on photos, but answers the check photo as it should"
    assert [(entry["event"], entry["photos"]) for entry in logs] == [(told, 3)] * 3


def test_a_batch_of_photos_that_make_a_session_fail(device: Device) -> None:
    """The check photo runs between two of them; all are tried, and each fails on its own."""
    with busy(device, replace(ROOMY, max_batch=6)) as the:
        futures = [the.submit(n, mode=RAISES if n < 5 else GOOD) for n in range(1, 7)]
        the.release()
        kinds = [type(future.exception(ENOUGH_S)) for future in futures]
        assert (the.sessions[0].checks, the.failed) == (1, [])
    assert kinds == [InferenceFailed] * 4 + [type(None)] * 2
    assert device.ran == [[0], [1, 2, 3, 4, 5, 6], *([n] for n in range(1, 7))]


def test_a_session_that_gives_a_wrong_answer_to_the_check_photo_is_out_of_service(device: Device) -> None:
    with capture_logs() as logs, bench(device, [Probe(device)], ALONE) as the:
        the.sessions[0].lies = True
        for number in range(3):
            assert isinstance(the.submit(number, mode=RAISES).exception(ENOUGH_S), InferenceFailed)
        assert (the.sessions[0].checks, the.failed) == (1, [("net", 0)])
        with pytest.raises(NotServing):
            the.submit(4)
    assert "computes something else" in logs[0]["reason"]


def test_who_waits_for_the_last_session_is_told(device: Device) -> None:
    limits = replace(ALONE, max_failures=1)
    with busy(device, limits) as the:
        the.sessions[0].broken = True
        futures = [the.submit(n) for n in (1, 2, 3)]
        assert futures[1].cancel()
        the.release()
        assert isinstance(the.first.exception(ENOUGH_S), InferenceFailed)
        for future in (futures[0], futures[2]):
            assert isinstance(future.exception(ENOUGH_S), NotServing)
        assert the.waiting("net") == 0
    assert device.ran == [[0]]


def test_the_rest_of_a_batch_is_not_tried_on_a_failing_session(device: Device) -> None:
    with busy(device, replace(ROOMY, max_batch=6)) as the:
        the.sessions[0].fails_from = 1
        futures = [the.submit(n) for n in range(1, 6)]
        the.release()
        assert isinstance(the.first.exception(ENOUGH_S), InferenceFailed)
        kinds = [type(future.exception(ENOUGH_S)) for future in futures]
    assert kinds == [InferenceFailed, InferenceFailed, NotServing, NotServing, NotServing]
    assert device.ran == [[0], [1, 2, 3, 4, 5], [1], [2]]


def test_a_batch_that_fails_is_no_failure_if_its_photos_succeed_alone(device: Device) -> None:
    with busy(device) as the:
        the.sessions[0].fails_from = 2
        futures = [the.submit(n) for n in range(1, 13)]
        the.release()
        assert numbers(futures) == list(range(1, 13))
        assert the.failed == []


def test_other_replicas_serve_on(device: Device) -> None:
    whole, broken = Probe(device), Probe(device)
    broken.broken = True
    with bench(device, [whole, broken], ALONE) as the:  # an idle engine takes the last one
        errors = [the.submit(n).exception(ENOUGH_S) for n in range(10)]
        assert [type(error) for error in errors] == [InferenceFailed] * 3 + [type(None)] * 7
        assert the.failed == [("net", 0)]
        assert the.networks["net"].sessions == (whole,)


def test_other_networks_serve_on(device: Device) -> None:
    sessions = [Probe(device, name) for name in "ab"]
    sessions[0].broken = True
    with bench(device, sessions, ALONE) as the:
        for number in range(3):
            assert isinstance(the.submit(number, "a").exception(ENOUGH_S), InferenceFailed)
        with pytest.raises(NotServing):
            the.submit(3, "a")
        assert numbers([the.submit(n, "b") for n in range(5)]) == list(range(5))


def test_callers_know_no_sooner_than_whoever_rebuilds(device: Device) -> None:
    with bench(device, [Probe(device)], replace(ALONE, max_failures=1)) as the:
        the.sessions[0].broken = True
        seen: list[int] = []
        the.sessions[0].hold()
        future = the.start(1)
        future.add_done_callback(lambda _: seen.append(len(the.failed)))
        the.release()
        future.exception(ENOUGH_S)
    assert seen == [1]


def test_a_session_that_is_put_back_serves(device: Device) -> None:
    with bench(device, [Probe(device)], ALONE) as the:
        for attempts, answers in ((3, False), (5, False), (6, True), (1, False)):
            break_session(the)
            the.sessions[0] = Probe(device)
            the.batcher.restore(the.networks["net"], Replica(the.sessions[0], attempts))
            if answers:
                assert numbers([the.submit(7)]) == [7]
        break_session(the)
        # The attempts at rebuilding a session count until it has answered a photo.
        assert the.failed == [("net", 0), ("net", 3), ("net", 5), ("net", 0), ("net", 1)]


def test_the_threads_survive_whoever_rebuilds(device: Device) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    session = Probe(device)
    session.broken = True
    network = Network([session], replace(ALONE, max_failures=1))
    other = Network([Probe(device, "other")], ALONE)
    batcher = Batcher(1, explode)
    with capture_logs() as logs:
        assert batcher.submit(network, photo(1, RAISES), frozenset(), None).exception(ENOUGH_S)
        assert numbers([batcher.submit(other, photo(2), frozenset(), None)]) == [2]
    batcher.close()
    assert "a session that failed isn't rebuilt" in [entry["event"] for entry in logs]


# What is held


def until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + ENOUGH_S
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_nothing_holds_a_network_that_nobody_uses(device: Device) -> None:
    """Its memory on the device is free as soon as the last request has ended, without the garbage collector."""
    batcher = Batcher(1, Bench(device, [], {}).note_failing)
    session = Probe(device)
    network = Network([session], ALONE)
    gone = weakref.ref(session)
    gc.disable()
    try:
        futures = [batcher.submit(network, photo(n), frozenset(), None) for n in range(5)]
        assert numbers(futures) == list(range(5))
        cancelled = batcher.submit(network, photo(6), frozenset(), None)
        cancelled.cancel()
        wait([cancelled], ENOUGH_S)
        device.batches.clear()
        del session, network, futures, cancelled
        until(lambda: gone() is None)  # the thread drops its reference a moment after the last answer
    finally:
        gc.enable()
        batcher.close()


# Many threads at once


class Mender(threading.Thread):
    """Puts another session in the place of each that failed."""

    def __init__(self, the: Bench, make: Callable[[], Probe]) -> None:
        super().__init__()
        self._the, self._make = the, make
        self._mended, self._over = 0, False

    def run(self) -> None:
        while not self._over:
            with self._the.device.changed:
                self._the.device.changed.wait_for(lambda: len(self._the.failed) > self._mended or self._over, ENOUGH_S)
            while self._mended < len(self._the.failed):
                self._mended += 1
                self._the.batcher.restore(self._the.networks["net"], Replica(self._make(), self._mended))

    def stop(self) -> None:
        with self._the.device.changed:
            self._over = True
            self._the.device.changed.notify_all()
        self.join(ENOUGH_S)
        assert not self.is_alive()


@st.composite
def crowds(draw: st.DrawFn) -> list[list[int]]:
    modes = st.sampled_from([GOOD] * 12 + [RAISES, TOO_LARGE])
    return draw(st.lists(st.lists(modes, min_size=20, max_size=50), min_size=2, max_size=4))


@given(
    crowd=crowds(),
    runs=st.integers(1, 3),
    max_batch=st.integers(1, 8),
    room=st.integers(1, 8),
    good_runs=st.integers(1, 12),
)
@settings(deadline=None, max_examples=30, phases=[Phase.explicit, Phase.generate])  # threads can't be shrunk
def test_everyone_gets_exactly_one_outcome(
    crowd: list[list[int]], runs: int, max_batch: int, room: int, good_runs: int
) -> None:
    """Sessions break after some runs, another thread replaces them, and memory is short."""
    device, count, outcomes = Device(), itertools.count(), Counter[int]()
    asked: list[tuple[int, int, Future[Inference]]] = []

    def session() -> Probe:
        probe = Probe(device)
        probe.nap_s, probe.room, probe.lasts = 0.0003, room, good_runs
        return probe

    def work(plan: list[int]) -> None:
        for mode in plan:
            number = next(count)
            with contextlib.suppress(NotServing):
                future = the.batcher.submit(the.networks["net"], photo(number, mode), frozenset({1}), None)
                asked.append((number, mode, future))
                future.add_done_callback(partial(note_outcome, number))

    def note_outcome(number: int, _: Future[Inference]) -> None:
        outcomes.update([number])

    with bench(device, [session() for _ in range(runs)], NetworkLimits(max_batch, 0.01), runs) as the:
        threads = [threading.Thread(target=work, args=(plan,)) for plan in crowd]
        mender = Mender(the, session)
        for thread in (mender, *threads):
            thread.start()
        for thread in threads:
            thread.join(ENOUGH_S)
        _, late = wait([future for _, _, future in asked], ENOUGH_S)
        mender.stop()
        assert not late
    assert outcomes == Counter(number for number, _, _ in asked)
    for number, mode, future in asked:
        check_outcome(number, mode, future)


def check_outcome(number: int, mode: int, future: Future[Inference]) -> None:
    error = future.exception()
    if error is None:
        assert mode == GOOD
        assert (future.result().foreground == number).all()
    else:
        assert isinstance(error, InferenceFailed | NotServing | Overloaded)
        assert not isinstance(error, Overloaded) or mode == TOO_LARGE
