"""The load benchmark: stalls show in its figures, and its whole chain runs in miniature."""

import asyncio
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from load.bench import Plan
from load.capacity import Judge, Objective, Search, parse_objective
from load.compare import compare
from load.drivers import Answer, CannotRun, Running
from load.generator import Call, OpenLoop, Outcome, schedule
from load.histogram import Histogram
from load.measure import Scope, measure
from load.phase import Load, Phase, Usage, summarise
from load.photos import Photos, mixed_photos
from load.report import write_report
from load.results import load_results
from load.selftest import paused_load

ROOT = Path(__file__).parents[2]
PLAN = Plan(Photos("bytes", (b"x",), (1,)), 0.5, 3.0, 2, 2, 30.0, "constant", 1)
NOBODY = Usage(0.0, 0.0)


class Stalling:
    """A caller whose hundredth call blocks the whole generator for a second; its other calls take no time."""

    def __init__(self) -> None:
        self._calls = itertools.count(1)

    async def call(self, photo: bytes, timeout_s: float) -> Answer:  # noqa: ARG002
        if next(self._calls) == 100:
            time.sleep(1)  # noqa: ASYNC251 - this stall is what the test is about
        return Answer("OK", len(photo), {})

    async def close(self) -> None:
        pass


def test_a_generator_that_stalls_says_so() -> None:
    loop = OpenLoop([Stalling()], itertools.repeat(b"photo"), 30, lambda _: False)
    outcome = asyncio.run(loop.run(schedule("constant", 100, 300, 1)))
    waited = [call for call in outcome.calls if call.latency_s > 0.5]
    assert len(outcome.calls) == 300
    assert len(waited) >= 45  # all that were due in the first half of the second
    assert sum(call.service_s > 0.5 for call in outcome.calls) < len(waited) / 10


def test_a_server_that_stands_still_shows_in_the_tail() -> None:
    paused = asyncio.run(paused_load(PLAN, 100))
    assert paused.waited > 0.8
    assert Histogram(paused.phase.latency).max_s > 0.9
    assert paused.phase.statuses == {"OK": 300}


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_schedules_offer_what_they_say(arrivals: str) -> None:
    times_s = schedule("poisson" if arrivals == "poisson" else "constant", 50, 500, 3)
    assert times_s == sorted(times_s)
    assert len(times_s) == 500
    assert 9 < times_s[-1] < 10


def test_no_percentile_that_the_sample_cannot_carry() -> None:
    histogram = Histogram(Histogram.of([0.1] * 499).encoded())
    assert histogram.percentile_s(90) == pytest.approx(0.1, rel=1e-3)
    assert histogram.percentile_s(99) is None
    histogram.record(0.2)
    assert histogram.percentile_s(99) is not None
    assert histogram.count == 500
    assert histogram.max_s == pytest.approx(0.2, rel=1e-3)


def call_of(due_s: float, latency_s: float, status: str = "OK", wait_s: float = 0.0) -> Call:
    stages_s = {"decode": 0.1 * latency_s, "infer": 0.5 * latency_s, "total": 0.7 * latency_s}
    return Call(due_s, due_s + wait_s, due_s + latency_s, 10, Answer(status, 20, stages_s if status == "OK" else {}))


def test_refusals_are_counted_and_late() -> None:
    calls = [call_of(number, 0.1, "OK" if number % 10 else "RESOURCE_EXHAUSTED") for number in range(100)]
    phase = summarise(Load("open", 1.0), Outcome(calls, abandoned=3), (0.0, 100.0), 0.5, NOBODY)
    assert phase.statuses == {"OK": 90, "RESOURCE_EXHAUSTED": 10, "abandoned": 3}
    assert (phase.sent, phase.within, Histogram(phase.latency).count) == (103, 90, 90)
    judge = Judge(Objective(90, 0.5), 90)
    assert [judge.missed(call) for call in calls].index(True) == 90  # the tenth refusal: nine may be late
    assert not judge.held


def test_stages_add_up_to_the_latency() -> None:
    calls = [call_of(number, 0.2, wait_s=0.01) for number in range(100)]
    stack = summarise(Load("open", 1.0), Outcome(calls), (0.0, 100.0), 0.5, NOBODY).stacks["p90"]
    assert sum(stack.values()) == pytest.approx(0.2)
    assert stack["client"] == pytest.approx(0.01)
    assert stack["transport"] == pytest.approx(0.05)
    assert stack["other"] == pytest.approx(0.02)


@pytest.mark.parametrize("text", ["p99", "500ms", "p99<500ms", "p9<=1s", "p99<=500"])
def test_objectives_are_written_one_way(text: str) -> None:
    assert parse_objective("p99.9<=2s") == Objective(99.9, 2.0)
    with pytest.raises(ValueError, match="p99<=500ms"):
        parse_objective(text)


class Absent:
    """A subject that can't run on this machine."""

    name = "Absent"
    settings: Mapping[str, str] = {"version": "1"}

    def prepare(self) -> None:
        raise CannotRun("there is no such thing")

    @contextmanager
    def start(self) -> Generator[Running]:
        raise AssertionError("it was started all the same")
        yield


def load(*words: str, cwd: Path | None = None) -> str:
    command = [sys.executable, str(ROOT / "benchmarks/latency.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, colour_model: Path) -> Path:
    """The folder of a short run with a network of a few nodes."""
    folder = tmp_path_factory.mktemp("load")
    few = ("--seconds", "1", "--calls", "25", "--concurrencies", "2", "--rates", "5,20", "--starts", "1")
    probes = ("--most-probes", "2", "--objective", "p80<=5s", "--no-selftest")
    whom = ("--subjects", "Mattebox", "--comparisons", "same engine", "--model", str(colour_model))
    load("run", *few, *probes, *whom, "--out", str(folder))
    return folder


def test_the_chain_in_miniature(run_folder: Path, scope: Scope) -> None:
    results = load_results(run_folder)
    (measured,) = results.measured
    assert measured.settings["engine"] == "cpu, fp32"
    assert [phase.load.amount for phase in measured.swept] == [5, 20]
    assert all(phase.statuses == {"OK": 25} for phase in measured.swept)
    assert {"decode", "queue", "infer", "matte", "encode"} <= measured.swept[0].stages.keys()
    assert measured.capacity is not None
    assert measured.capacity.held == (True, True)
    assert measured.capacity.sustained_hz == pytest.approx(1.25 * measured.capacity.probes[0].load.amount)
    assert measured.footprint is not None
    assert measured.footprint.loaded_bytes > 10e6 < measured.footprint.installed_bytes
    (run_folder / "report.md").unlink()
    absent = measure(Absent(), "same engine", scope, lambda _: None)
    report = write_report(replace(results, measured=(measured, absent)), run_folder).read_text()
    assert "Absent can't run here: there is no such thing" in report
    pictures = {line.split("(")[1][:-1] for line in report.splitlines() if line.startswith("![")}
    assert len(pictures) == 6
    assert all((run_folder / name).stat().st_size > 1000 for name in pictures)


def test_shares_of_the_throughput_and_no_search(tmp_path: Path, colour_model: Path) -> None:
    few = ("--seconds", "1", "--calls", "10", "--concurrencies", "2", "--shares", "0.2", "--starts", "1")
    whom = ("--subjects", "Mattebox", "--comparisons", "as shipped", "--model", str(colour_model))
    photos = save_photos(tmp_path / "holiday")
    paths = ("--data", "holiday", "--out", "run")
    load("run", *few, *whom, *paths, "--most-probes", "0", "--no-selftest", cwd=tmp_path)
    results = load_results(tmp_path / "run")
    assert results.photos == "3 files of holiday"
    (measured,) = results.measured
    assert measured.closed[0].bytes_in == photos
    assert measured.closed[0].statuses.keys() == {"OK"}
    assert [phase.load.amount for phase in measured.swept] == [pytest.approx(0.2 * measured.closed[0].answered_hz)]
    assert measured.capacity is not None
    assert not measured.capacity.probes
    assert "| Mattebox | not searched | - | - |" in (tmp_path / "run/report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shares", "0.5", "--rates", "3"), "exclude each other"),
        (("--photos", "mixed", "--data", "."), "argument --data: not allowed with argument --photos"),
        (("--data", "nowhere"), "no JPEG, PNG or WebP files in --data nowhere"),
        (("--calls", "0"), "argument --calls: 0 isn't above 0"),
        (("--concurrencies", "1,2.5"), "argument --concurrencies: invalid _counts value"),
        (("--subjects", "Mattebox,Nobody"), "Nobody"),
    ],
)
def test_what_it_cant_do_is_said_before_anything_runs(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        load("run", *words, "--no-selftest", "--out", str(tmp_path / "run"), cwd=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_mix_of_photos_has_the_sizes_and_shares_that_it_says() -> None:
    photos = mixed_photos()
    decoded = [np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)) for file in photos.files]
    megapixels = [round(photo.shape[0] * photo.shape[1] / 1e6, 1) for photo in decoded]
    assert megapixels == [0.3, 1.0, 4.0, 12.0] * 3
    sent = list(itertools.islice(photos.in_order(1), 3000))
    large = [file for file, size in zip(photos.files, megapixels, strict=True) if size == 12]
    assert sum(file in large for file in sent) == pytest.approx(150, abs=50)
    assert sent == list(itertools.islice(photos.in_order(1), 3000))
    assert sent != list(itertools.islice(photos.in_order(2), 3000))


def save_photos(folder: Path) -> int:
    """Saves a JPEG, a PNG in a subfolder, a WebP and a text file; returns the size in bytes of each photo."""
    (folder / "beach").mkdir(parents=True)
    rgb = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    names = ("one.JPG", "beach/two.png", "three.webp")
    files = [cv2.imencode(Path(name).suffix.lower(), rgb)[1].tobytes() for name in names]
    for name, file in zip(names, files, strict=True):
        (folder / name).write_bytes(file.ljust(20_000, b"\0"))
    (folder / "notes.txt").write_text("no photo")
    return 20_000


@pytest.fixture
def scope() -> Scope:
    """A scope for a subject that can't run."""
    return Scope(PLAN, (1,), (0.5,), (), Search(Objective(80, 5.0), 1, 1.05, 1), 1, 0.1)


def test_compare_says_what_got_slower(run_folder: Path) -> None:
    results = load_results(run_folder)
    assert {each.verdict for each in compare(results, results) if "cold" not in each.what} == {"no difference seen"}
    (measured,) = results.measured
    slower = replace(measured, swept=tuple(three_times_as_slow(phase) for phase in measured.swept))
    found = {each.what: each for each in compare(results, replace(results, measured=(slower,)))}
    difference = found["Mattebox, same engine, 5.0/s offered, p50"]
    assert difference.verdict == "worse"
    assert difference.low < 3 < difference.high or 2 < difference.low < difference.high < 4
    assert "no difference seen" in load("compare", str(run_folder), str(run_folder))


def three_times_as_slow(phase: Phase) -> Phase:
    """Returns a phase with three times the latency of every call."""

    def slower(encoded: str) -> str:
        values_s, counts = Histogram(encoded).buckets()
        return Histogram.of(
            3 * float(value) for value, count in zip(values_s, counts, strict=True) for _ in range(int(count))
        ).encoded()

    return replace(phase, latency=slower(phase.latency), blocks=[slower(block) for block in phase.blocks])


def test_runs_with_nothing_in_common_are_not_compared(run_folder: Path) -> None:
    results = load_results(run_folder)
    with pytest.raises(SystemExit, match="can't be compared"):
        compare(results, replace(results, photos="others"))
