"""`make bench-faults`: overload, deadlines, misbehaving callers, servers that die, and what a good caller notices.

Each scenario starts servers of its own on loopback and compares what it measures with a goal. The callers run on the
same machine as the server, so that their processor time slows the server down where cores are few. The goals are
therefore ratios of two figures of the same scenario; the figures without load are measured first.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from chaos import fuzz as fuzzing
from chaos import storms as storming
from chaos.callers import Outcome, Photo, closed_loop, offered, photo_of, quantile, steady
from chaos.report import Report
from chaos.watching import METRICS, memory, metric, processor
from machine import describe_machine
from material import shipped_model, small_model

from mattebox_server.local import LocalServer

BUDGET_S = 1.0  # --max-wait-seconds of the overloaded server
OVERLOAD = 10  # the offered load, as a multiple of what the server can answer
MEBIBYTE = 2**20
_STORM_S = 8  # a storm needs this long before its connections are stuck or broken

Scenario = Callable[[Path, float], Report]


def overload(model: Path, seconds: float) -> Report:
    """Offers ten times the load that the server can answer, on eight connections, at fixed times."""
    report = Report("overload")
    flags = ["--provider", "cpu", "--max-wait-seconds", str(BUDGET_S)]
    with LocalServer([model], flags) as server:
        photo = photo_of(1200, 900)
        alone_s = median(_seconds(asyncio.run(closed_loop(server.address, photo, 1, 5))))
        peak = asyncio.run(closed_loop(server.address, photo, 4, min(15.0, seconds)))
        peak_hz, service_s = _rate(peak), quantile(_seconds(peak), 0.99)
        before = memory(server)
        outcomes = asyncio.run(offered(server.address, photo, OVERLOAD * peak_hz, seconds))
        over_s = max(outcome.began_s for outcome in outcomes)
        after_s = asyncio.run(_recovery(server.address, photo, 1.5 * alone_s)) - over_s
        accepted = [outcome for outcome in outcomes if outcome.status == "OK"]
        refused = [outcome for outcome in outcomes if outcome.status != "OK"]
        report.add("goodput / peak", _rate(accepted) / peak_hz, least=0.9)
        report.add("accepted: p99 s", quantile(_seconds(accepted), 0.99), most=BUDGET_S + service_s)
        report.add("refused: p99 ms", 1000 * quantile(_seconds(refused), 0.99), most=50)
        report.add("refused: slowest ms", 1000 * max(_seconds(refused)))
        report.add("refused without RetryInfo", sum(not outcome.retry for outcome in refused), most=0)
        report.add("refused by another status", sum(o.status != "RESOURCE_EXHAUSTED" for o in refused), most=0)
        report.add("memory after / before", memory(server) / before, most=1.5)
        report.add("recovery s", after_s, most=2)
        report.add("offered", len(outcomes))
    return report


async def _recovery(address: str, photo: Photo, normal_s: float) -> float:
    """Returns when a call was as fast again as without load, on the clock of `time.monotonic`; waits at most 30 s."""
    until_s = time.monotonic() + 30
    while (began_s := time.monotonic()) < until_s:
        (outcome,) = await closed_loop(address, photo, 1, 0)
        if outcome.status == "OK" and outcome.seconds <= normal_s:
            break
    return began_s


def deadlines(model: Path, seconds: float) -> Report:
    """Makes calls with half of the time that they need, and counts the work that the server does for them."""
    report = Report("deadlines")
    with LocalServer([model], ["--provider", "cpu", *METRICS]) as server:
        photo = photo_of(1200, 900)
        cpu_s = processor(server)
        sound = asyncio.run(closed_loop(server.address, photo, 1, max(3.0, seconds / 10)))
        each_cpu_s = (processor(server) - cpu_s) / len(sound)
        needed_s = median(_seconds(sound))
        cpu_s, runs = processor(server), metric(server, "mattebox_batch_size_sum")
        hopeless = asyncio.run(closed_loop(server.address, photo, 2, seconds / 4, timeout_s=needed_s / 2, pause_s=0.02))
        worth = (processor(server) - cpu_s) / each_cpu_s
        report.add("calls with too little time", len(hopeless))
        report.add("answered all the same", sum(outcome.status == "OK" for outcome in hopeless))
        runs = metric(server, "mattebox_batch_size_sum") - runs
        report.add("share that the network ran for", runs / len(hopeless), most=0.05)
        report.add("processor time / that of as many answers", worth / len(hopeless))
        report.add("share refused within 50 ms", sum(o.seconds <= 0.05 for o in hopeless) / len(hopeless), least=0.95)
    return report


def fairness(model: Path, seconds: float) -> Report:
    """Compares a caller of one request at a time, alone and beside a caller with a thousand requests in flight."""
    report = Report("fairness")
    with LocalServer([model], ["--provider", "cpu", "--max-wait-seconds", "600", "--max-queue", "1100"]) as server:
        photo = photo_of(1200, 900)
        alone = steady(server.address, photo, 5)
        greedy = multiprocessing.get_context("spawn").Process(
            target=storming.greedy, args=(server.address, photo, seconds), daemon=True
        )
        greedy.start()
        time.sleep(4)
        beside = steady(server.address, photo, max(1.0, seconds - 8))
        greedy.terminate()
        greedy.join()
        report.add("calls of the single caller", len(beside))
        report.add("of them not answered", sum(outcome.status != "OK" for outcome in beside), most=0)
        # Ahead of each call are the requests that run and one turn of the greedy caller, not its whole thousand.
        report.add("median / alone", median(_seconds(beside)) / median(_seconds(alone)), most=10)
    return report


def storms(model: Path, seconds: float) -> Report:
    """Compares a well-behaved caller alone with the same caller beside each kind of misbehaving callers."""
    report = Report("storms")
    each_s = max(2.0, seconds / 4)
    for name in storming.STORMS:
        with LocalServer([model], ["--provider", "cpu"]) as server:
            photo = photo_of(1200, 900)
            steady(server.address, photo, 1)
            alone = steady(server.address, photo, each_s)
            process = multiprocessing.get_context("spawn").Process(
                target=storming.run_storm, args=(name, server.address, photo), daemon=True
            )
            process.start()
            time.sleep(_STORM_S)
            beside = steady(server.address, photo, each_s)
            process.terminate()
            process.join()
            failed = sum(outcome.status != "OK" for outcome in beside)
            ratio = quantile(_seconds(beside), 0.99) / quantile(_seconds(alone), 0.99)
            report.add(f"{name}: p99 / alone", ratio, most=2)
            report.add(f"{name}: failed calls", failed, most=0)
    return report


def restarts(model: Path, seconds: float) -> Report:
    """Kills one of two servers, then restarts both in turn, while the Python client makes calls."""
    report = Report("restarts")
    for name, retries in (("killed", 4), ("restarted", 4), ("restarted", 0)):
        outcomes = storming.under_restarts(model, name == "killed", retries, max(3.0, seconds / 8))
        report.add(f"{name}, {retries} retries: calls", sum(outcomes.values()))
        report.add(f"{name}, {retries} retries: failed", sum(outcomes.values()) - outcomes["OK"], most=0)
    return report


def soak(model: Path, seconds: float) -> Report:
    """Puts a mixed load with broken photos and missed deadlines on a server for a long time, and looks for leaks."""
    report = Report("soak")
    with LocalServer([model], ["--provider", "cpu", *METRICS]) as server:
        found = storming.soaked(server, seconds)
        time.sleep(2)
        left = sum(metric(server, name) for name in ("mattebox_in_flight_bytes", "mattebox_active_requests"))
        report.add("requests and bytes in flight afterwards", left, most=0)
        report.add("minutes", seconds / 60)
        report.add("requests", found.requests)
        report.add("memory: MiB a minute after warm-up", found.memory_slope / MEBIBYTE, most=1)
        report.add("descriptors: end / start of the second half", found.descriptors, most=1.05)
        report.add("threads: end / start of the second half", found.threads, most=1.05)
    return report


def fuzz(model: Path, seconds: float) -> Report:
    """Sends broken photos through the codec, and broken requests through a server."""
    report = Report("fuzz")
    count = 20_000 if seconds >= 60 else 400
    found = fuzzing.run(model, count)
    report.add("photos through the codec", found.photos)
    report.add("requests through the server", found.requests)
    report.add("unexpected statuses", found.strange, most=0)
    report.add("slowest answer s", found.slowest_s, most=2)
    report.add("server's memory after / before", found.memory, most=1.1)
    report.add("servers that crashed", found.died, most=0)
    return report


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario for scenario in (overload, deadlines, fairness, storms, restarts, fuzz, soak)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the scenarios and prints their tables; returns 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", default=list(SCENARIOS), choices=list(SCENARIOS), help="scenarios to run (default: all)"
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="length of the overload, from which the others follow (default: 60)"
    )
    parser.add_argument("--soak-minutes", type=float, default=10, help="length of the soak (default: 10)")
    parser.add_argument(
        "--model", type=Path, help="model file (default: U²-Net-p; for the fuzzing a network of one node)"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args(argv)
    reports: list[Report] = []
    for name in arguments.only:
        model = arguments.model or (small_model() if name == "fuzz" else shipped_model())
        seconds = 60 * arguments.soak_minutes if name == "soak" else arguments.seconds
        reports.append(SCENARIOS[name](model, seconds))
        reports[-1].show()
    if arguments.json:
        rows = {report.name: report.rows for report in reports}
        arguments.json.write_text(json.dumps({"machine": describe_machine(), "scenarios": rows}, indent=1) + "\n")
    return int(any(report.missed for report in reports))


def _seconds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.seconds for outcome in outcomes] or [0.0]


def _rate(outcomes: Sequence[Outcome]) -> float:
    """Returns the calls a second, from the first call to the last answer."""
    if not outcomes:
        return 0.0
    first_s = min(outcome.began_s for outcome in outcomes)
    return len(outcomes) / (max(outcome.began_s + outcome.seconds for outcome in outcomes) - first_s)


if __name__ == "__main__":
    sys.exit(main())
