"""`make bench-faults`: overload, deadlines, bad callers, dying servers, and what they cost a well-behaved one.

Each scenario starts servers of its own, on loopback, and holds what it measures against a goal. The callers share the
machine with the server, so that where cores are few their share of it counts as the server's. What counts are ratios
within a scenario; its unloaded figures come first.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import faults_fuzz
import faults_storms
from faults_load import Outcome, Photo, closed_loop, offered, photo_of, quantile, steady
from machine import describe_machine
from material import light_model, small_model
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox_server.local import LocalServer

BUDGET_S = 1.0  # --max-wait-seconds of the overload
OVERLOAD = 10
MEBIBYTE = 2**20
_STORM_S = 8  # the storm's first requests are as good as anybody's, until they get stuck or go away
METRICS = ("--metrics-address", "127.0.0.1:0")


@dataclass
class Report:
    """What one scenario found.

    Attributes:
        name: of the scenario.
        rows: figure, value, goal as words, and whether it is met; None for what is only told.
    """

    name: str
    rows: list[tuple[str, str, str, bool | None]] = field(default_factory=list[tuple[str, str, str, bool | None]])

    def add(self, figure: str, value: float, most: float | None = None, least: float | None = None) -> None:
        """Takes in a figure, with its bound if it has one."""
        met = (
            None
            if most is None and least is None
            else (most is None or value <= most) and (least is None or value >= least)
        )
        goal = "" if met is None else f"at most {most:g}" if least is None else f"at least {least:g}"
        self.rows.append((figure, f"{value:.4g}", goal, met))


Scenario = Callable[[Path, float], Report]


def overload(model: Path, seconds: float) -> Report:
    """Ten times of what the server can do is offered, on eight connections, at fixed times."""
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
    """When a call is as fast again as it was, on the clock of `time.monotonic`."""
    until_s = time.monotonic() + 30
    while (began_s := time.monotonic()) < until_s:
        (outcome,) = await closed_loop(address, photo, 1, 0)
        if outcome.status == "OK" and outcome.seconds <= normal_s:
            break
    return began_s


def deadlines(model: Path, seconds: float) -> Report:
    """Calls with half of the time that they need. Work is counted in the server's processor time."""
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
        report.add("calls that could not make it", len(hopeless))
        report.add("answered in spite of that", sum(outcome.status == "OK" for outcome in hopeless))
        runs = metric(server, "mattebox_batch_size_sum") - runs
        report.add("share that the network ran for", runs / len(hopeless), most=0.05)
        report.add("processor time / that of as many answers", worth / len(hopeless))
        report.add("share refused within 50 ms", sum(o.seconds <= 0.05 for o in hopeless) / len(hopeless), least=0.95)
    return report


def fairness(model: Path, seconds: float) -> Report:
    """One caller keeps a thousand requests in flight, another one."""
    report = Report("fairness")
    with LocalServer([model], ["--provider", "cpu", "--max-wait-seconds", "600", "--max-queue", "1100"]) as server:
        photo = photo_of(1200, 900)
        alone = steady(server.address, photo, 5)
        greedy = multiprocessing.get_context("spawn").Process(
            target=faults_storms.greedy, args=(server.address, photo, seconds), daemon=True
        )
        greedy.start()
        time.sleep(4)
        beside = steady(server.address, photo, max(1.0, seconds - 8))
        greedy.terminate()
        greedy.join()
        report.add("calls of the one", len(beside))
        report.add("of them not answered", sum(outcome.status != "OK" for outcome in beside), most=0)
        # Those that are worked on and one turn of the other are ahead of it; in one queue for all a thousand would be.
        report.add("median / alone", median(_seconds(beside)) / median(_seconds(alone)), most=10)
    return report


def storms(model: Path, seconds: float) -> Report:
    """Bad callers of each kind, and a well-behaved one beside them."""
    report = Report("storms")
    each_s = max(2.0, seconds / 4)
    for name in faults_storms.STORMS:
        with LocalServer([model], ["--provider", "cpu"]) as server:
            photo = photo_of(1200, 900)
            steady(server.address, photo, 1)
            alone = steady(server.address, photo, each_s)
            process = multiprocessing.get_context("spawn").Process(
                target=faults_storms.run_storm, args=(name, server.address, photo), daemon=True
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
    """One of two servers is killed; then both are restarted one after the other. By the Python client."""
    report = Report("restarts")
    for name, retries in (("killed", 4), ("restarted", 4), ("restarted", 0)):
        outcomes = faults_storms.under_restarts(model, name == "killed", retries, max(3.0, seconds / 8))
        report.add(f"{name}, {retries} retries: calls", sum(outcomes.values()))
        report.add(f"{name}, {retries} retries: failed", sum(outcomes.values()) - outcomes["OK"], most=0)
    return report


def soak(model: Path, seconds: float) -> Report:
    """Mixed load, with errors, cancellations and streams, for long."""
    report = Report("soak")
    with LocalServer([model], ["--provider", "cpu", *METRICS]) as server:
        found = faults_storms.soaked(server, seconds)
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
    """Mutated photos through the codec, mutated requests through a server."""
    report = Report("fuzz")
    count = 20_000 if seconds >= 60 else 400
    found = faults_fuzz.run(model, count)
    report.add("photos through the codec", found.photos)
    report.add("requests through the server", found.requests)
    report.add("statuses outside of the table", found.strange, most=0)
    report.add("slowest answer s", found.slowest_s, most=2)
    report.add("server's memory after / before", found.memory, most=1.1)
    report.add("servers that died", found.died, most=0)
    return report


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario for scenario in (overload, deadlines, fairness, storms, restarts, fuzz, soak)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables, and writes JSON where asked to; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(SCENARIOS), choices=list(SCENARIOS), help="some scenarios")
    parser.add_argument("--seconds", type=float, default=60, help="length of the overload; others by it (default: 60)")
    parser.add_argument("--soak-minutes", type=float, default=10, help="length of the soak (default: 10)")
    parser.add_argument("--model", type=Path, help="model file (default: U²-Net-p; fuzz: one node)")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args(argv)
    reports: list[Report] = []
    for name in arguments.only:
        model = arguments.model or (small_model() if name == "fuzz" else light_model())
        seconds = 60 * arguments.soak_minutes if name == "soak" else arguments.seconds
        reports.append(SCENARIOS[name](model, seconds))
        show(reports[-1])
    if arguments.json:
        rows = {report.name: report.rows for report in reports}
        arguments.json.write_text(json.dumps({"machine": describe_machine(), "scenarios": rows}, indent=1) + "\n")
    return int(any(met is False for report in reports for *_, met in report.rows))


def show(report: Report) -> None:
    """Prints what a scenario found."""
    table = Table("", "measured", "goal", "", title=report.name, box=SIMPLE)
    for figure, value, goal, met in report.rows:
        table.add_row(figure, value, goal, "" if met is None else "met" if met else "[bold]missed[/bold]")
    Console().print(table)


def _seconds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.seconds for outcome in outcomes] or [0.0]


def _rate(outcomes: Sequence[Outcome]) -> float:
    """Answers a second, from the first call to the last answer."""
    if not outcomes:
        return 0.0
    first_s = min(outcome.began_s for outcome in outcomes)
    return len(outcomes) / (max(outcome.began_s + outcome.seconds for outcome in outcomes) - first_s)


def memory(server: LocalServer) -> int:
    """Resident bytes of a server."""
    return faults_storms.process_of(server).memory_info().rss


def metric(server: LocalServer, name: str) -> float:
    """The sum of a metric of a server that publishes them, over all labels."""
    place = next(event["address"] for event in server.events if event["event"] == "metrics")
    with urllib.request.urlopen(f"http://{place}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def processor(server: LocalServer) -> float:
    """Seconds of processor time that a server has taken."""
    times = faults_storms.process_of(server).cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    sys.exit(main())
