"""`make bench`: latency and capacity of Mattebox and other servers under load."""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import cast, get_args

from load.bench import Plan
from load.capacity import Objective, Search, parse_objective
from load.compare import compare, show
from load.generator import Arrivals
from load.measure import Scope, measure
from load.peers import Comparison
from load.photos import Photos, mixed_photos, one_photo, photos_in
from load.report import write_report
from load.results import VERSION, Measured, Results, load_results
from load.selftest import self_test
from load.subjects import subjects
from machine import describe_machine
from material import light_model, shipped_model

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Size:
    """The defaults of a run's extent."""

    seconds: float
    calls: int
    concurrencies: tuple[int, ...]
    shares: tuple[float, ...]
    objective: str
    most_probes: int
    starts: int
    subjects: tuple[str, ...]
    comparisons: tuple[str, ...]


_FULL = Size(20, 500, (1, 4, 16), (0.3, 0.5, 0.7, 0.85, 1.0, 1.2), "p99<=500ms", 8, 5, (), get_args(Comparison))
_QUICK = Size(5, 25, (1, 8), (0.5, 1.2), "p80<=500ms", 3, 2, ("Mattebox",), ("as shipped",))


def main() -> int:
    """Runs a command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="measure and report"))
    test = commands.add_parser("selftest", help="measure the generator itself")
    test.add_argument("--seconds", type=_positive, default=10, help="length of each part (default: 10)")
    commands.add_parser("report", help="write the report of a run again").add_argument("folder", type=Path)
    comparison = commands.add_parser("compare", help="compare two runs")
    comparison.add_argument("a", type=Path, help="folder of the first run")
    comparison.add_argument("b", type=Path, help="folder of the second run")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    if arguments.command == "selftest":
        self_test(arguments.seconds)
    elif arguments.command == "report":
        _say(str(write_report(load_results(arguments.folder), arguments.folder)))
    elif arguments.command == "compare":
        show(compare(load_results(arguments.a), load_results(arguments.b)), _say)
    else:
        _run(arguments, _QUICK if arguments.quick else _FULL)
    return 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="measure Mattebox alone, as shipped, at p80, in under 3 minutes")
    add("--model", type=Path, help="Mattebox's model file (default: u2netp, exported anew)")
    add("--subjects", type=_words, help="names, of Mattebox,rembg,LitServe,BentoML,Ray Serve,Triton (default: all)")
    add("--comparisons", type=_words, help="'same engine', 'as shipped' or both, separated by a comma (default: both)")
    sent = parser.add_mutually_exclusive_group().add_argument
    sent(
        "--photos",
        choices=("one", "mixed"),
        default="one",
        help="of 1000x667 px, or of 0.3 to 12 megapixels",
    )
    sent("--data", type=Path, help="folder of JPEG, PNG and WebP photos to send")
    add("--objective", type=_objective, help="objective of latency (default: p99<=500ms; quick: p80<=500ms)")
    add("--seconds", type=_positive, help="shortest length of a load (default: 20; quick: 5)")
    add("--calls", type=_count, help="fewest calls of an open loop (default: 500, enough for p99; quick: 25)")
    add("--concurrencies", type=_counts, help="callers of the closed loops (default: 1,4,16; quick: 1,8)")
    add("--shares", type=_numbers, help="offered loads, as shares of the best closed loop (default: 0.3 to 1.2)")
    add("--rates", type=_numbers, help="offered loads in calls a second, in place of shares")
    add("--rates-of", type=Path, help="folder of a run whose offered loads are repeated, so that both can be compared")
    add(
        "--arrivals",
        choices=get_args(Arrivals),
        default="poisson",
        help="of the open loop (default: poisson)",
    )
    add("--connections", type=_count, default=8, help="connections of the generator (default: 8)")
    add("--timeout", type=_positive, default=30, help="deadline of a call in seconds (default: 30)")
    add(
        "--most-probes",
        type=int,
        help="loads that the search tries, 0 for no search (default: 8; quick: 3)",
    )
    add("--starts", type=_count, help="number of timed starts (default: 5; quick: 2)")
    add("--seed", type=int, default=1, help="seed of the arrivals and of the order of photos (default: 1)")
    add("--no-selftest", action="store_true", help="leave the test of the generator out")
    add("--out", type=Path, help="folder for the results (default: benchmarks/results/DATE-MACHINE)")


def _run(arguments: argparse.Namespace, size: Size) -> None:
    photos = _photos(arguments)
    scope = _scope(arguments, size, photos)
    comparisons: Sequence[str] = arguments.comparisons or size.comparisons
    if unknown := set(comparisons) - set(get_args(Comparison)):
        raise SystemExit(f"load: --comparisons knows {' and '.join(get_args(Comparison))}, not {sorted(unknown)}")
    chosen = cast("Sequence[Comparison]", comparisons)
    names = arguments.subjects or size.subjects
    models = {each: arguments.model or _default_model(each) for each in chosen}
    who = [(each, subject) for each in chosen for subject in subjects(each, models[each], names)]
    began = datetime.now(UTC)
    machine = describe_machine()
    generator = {} if arguments.no_selftest else self_test(3 if arguments.quick else 10)
    folder: Path = arguments.out or RESULTS / f"{began:%Y-%m-%d}-{_slug(str(machine['processor']))}"
    folder.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/latency.py " + shlex.join(sys.argv[1:])
    date = began.isoformat(timespec="seconds")
    results = Results(VERSION, date, command, _commit(), machine, photos.name, _options(scope), generator, ())
    measured: list[Measured] = []
    for comparison, subject in who:
        measured.append(measure(subject, comparison, scope, _teller(f"{comparison}, {subject.name}")))
        results = replace(results, measured=tuple(measured))
        results.save(folder)  # after each subject, so that a run that is ended early keeps its results
        write_report(results, folder)
    _say(str(folder / "report.md"))


def _default_model(comparison: Comparison) -> Path:
    return light_model() if comparison == "same engine" else shipped_model()


def _scope(arguments: argparse.Namespace, size: Size, photos: Photos) -> Scope:
    objective: Objective = arguments.objective or parse_objective(size.objective)
    plan = Plan(
        photos,
        objective.seconds,
        arguments.seconds or size.seconds,
        arguments.calls or size.calls,
        arguments.connections,
        arguments.timeout,
        arguments.arrivals,
        arguments.seed,
    )
    cores = len(os.sched_getaffinity(0))
    most_probes = size.most_probes if arguments.most_probes is None else arguments.most_probes
    search = Search(objective, cores, closeness=1.05, most_probes=most_probes)
    concurrencies = arguments.concurrencies or size.concurrencies
    rates_hz: tuple[float, ...] = arguments.rates or ()
    if sum(bool(chosen) for chosen in (arguments.shares, arguments.rates, arguments.rates_of)) > 1:
        raise SystemExit("load: --shares, --rates and --rates-of exclude each other")
    if arguments.rates_of:
        rates_hz = tuple(phase.load.amount for phase in load_results(arguments.rates_of).measured[0].swept)
    shares = arguments.shares or size.shares
    return Scope(plan, concurrencies, shares, rates_hz, search, arguments.starts or size.starts, idle_s=5)


def _photos(arguments: argparse.Namespace) -> Photos:
    if arguments.data:
        return photos_in(arguments.data)
    return one_photo() if arguments.photos == "one" else mixed_photos()


def _options(scope: Scope) -> dict[str, str]:
    plan = scope.plan
    return {
        "objective": str(scope.search.objective),
        "arrivals": plan.arrivals,
        "seconds of a load": f"{plan.seconds:g}",
        "calls of an open loop": f"{plan.calls} at least",
        "connections": str(plan.connections),
        "timeout": f"{plan.timeout_s:g} s",
        "seed": str(plan.seed),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=RESULTS).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _end(_signal: int, _frame: FrameType | None) -> None:
    """Raises an exception, so that the servers are stopped."""
    sys.exit(143)


def _teller(label: str) -> Callable[[str], None]:
    return lambda line: _say(f"{label}: {line}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _objective(text: str) -> Objective:
    try:
        return parse_objective(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> float:
    if (number := float(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} isn't above 0")
    return number


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} isn't above 0")
    return number


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
