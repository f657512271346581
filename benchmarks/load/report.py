"""Writes `report.md` and its plots from the results of a run."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from load import plots
from load.capacity import Capacity, parse_objective
from load.histogram import BEYOND, PERCENTILES, Histogram
from load.phase import Phase
from load.results import Measured, Results

_HEAD = (
    "load", "sent", "answered/s", "in time/s", "p50", "p90", "p99", "p99.9", "max", "p50 of service", "cores", "not OK",
)  # fmt: skip
_EXPLAINED = f"""Latency counts from the time at which a call was due, service from the time at which it was made. Both
are in ms and cover the calls that were answered OK; the column "not OK" counts the others. A percentile is given where
at least {BEYOND} samples lie beyond it (p99 takes {BEYOND * 100} calls), else "-". "In time" is within the objective.
Rates count the time until the last answer. "Cores" is the processor time of the server and of the generator.
`results.json` holds the whole histograms (HdrHistogram)."""


def write_report(results: Results, folder: Path) -> Path:
    """Writes the plots and `report.md` beside `results.json`; returns the path of `report.md`."""
    lines = [f"# Latency under load, {results.date[:10]}", "", *_about(results)]
    for comparison in dict.fromkeys(each.comparison for each in results.measured):
        chosen = [each for each in results.measured if each.comparison == comparison]
        lines += ["", f"## {comparison.capitalize()}", "", *_comparison(chosen, comparison, results, folder)]
    lines += ["", "## The generator", "", *_generator(results), "", "## Machine and settings", "", *_machine(results)]
    file = folder / "report.md"
    file.write_text("\n".join(lines) + "\n")
    return file


def _about(results: Results) -> list[str]:
    options = ", ".join(f"{name} {value}" for name, value in results.options.items())
    again = ["To repeat it:", "", "```", results.command, "```"]
    return [f"Photos: {results.photos}. Settings: {options}.", "", *_EXPLAINED.split("\n"), "", *again]


def _comparison(chosen: Sequence[Measured], comparison: str, results: Results, folder: Path) -> list[str]:
    ran = [each for each in chosen if not each.reason]
    lines = [f"- {each.name} can't run here: {_in_line(each.reason)}" for each in chosen if each.reason]
    if not ran:
        return lines
    stem = comparison.replace(" ", "-")
    lines += ["", *_costs(ran), ""]
    objective_s = parse_objective(results.options["objective"]).seconds
    plots.draw_latency(ran, objective_s, folder / f"{stem}-latency.png")
    plots.draw_answered(ran, folder / f"{stem}-answered.png")
    plots.draw_curves(_curves(ran), "Closed loop, most callers at once", folder / f"{stem}-closed.png")
    plots.draw_curves(_at_share(ran), "Open loop, nearest to 70 % of the closed loop", folder / f"{stem}-open.png")
    starts = [each.footprint.start_s for each in ran if each.footprint]
    plots.draw_bars(
        [each.name for each in ran], starts, "Cold start", "s to the first answer, median", folder / f"{stem}-start.png"
    )
    lines += [f"![{name}]({stem}-{name}.png)" for name in ("latency", "answered", "closed", "open", "start")]
    for each in ran:
        lines += ["", f"### {each.name}", "", *_phases(each)]
        if any(phase.stacks for phase in each.swept):
            name = f"{stem}-{each.name.lower().replace(' ', '-')}-stages.png"
            plots.draw_stages(_few(each.swept), f"{each.label}: where the time goes", folder / name)
            lines += ["", f"![stages]({name})", "", *_stages(each)]
    return lines


def _costs(ran: Sequence[Measured]) -> list[str]:
    rows: list[Sequence[str]] = []
    for each in ran:
        capacity, footprint = each.capacity, each.footprint
        if capacity is None or footprint is None:
            continue
        first = each.closed[0]
        rows.append((
            each.name, *_found(capacity), f"{footprint.start_s:.2f}",
            f"{footprint.idle_bytes / 2**20:.0f}", f"{footprint.loaded_bytes / 2**20:.0f}",
            f"{footprint.idle_cores:.3f}", f"{footprint.installed_bytes / 1e9:.2f}",
            f"{first.bytes_in / 1e3:.0f} / {first.bytes_out / 1e3:.0f}",
        ))  # fmt: skip
    objective = next(each.capacity.objective for each in ran if each.capacity)
    head = (
        "", f"held at {objective}, /s", "missed at", "held per core", "cold start, s", "idle MiB", "loaded MiB",
        "idle cores", "installed, GB", "in / out, kB",
    )  # fmt: skip
    return _table(head, rows)


def _found(capacity: Capacity) -> Sequence[str]:
    """Returns the cells of the rates that were held, missed, and held per core."""
    if not capacity.probes:
        return ("not searched", "-", "-")
    missed = f"{capacity.missed_hz:.2f}" if capacity.missed_hz else "not found"
    if not capacity.sustained_hz:
        return ("none", missed, "-")
    return (f"{capacity.sustained_hz:.2f}", missed, f"{capacity.per_core_hz:.2f}")


def _phases(each: Measured) -> list[str]:
    rows = [_row(phase) for phase in (*each.closed, *each.swept)]
    probes = each.capacity.probes if each.capacity else ()
    held = each.capacity.held if each.capacity else ()
    tried = [f"{phase.load.amount:.2f}/s {'held' if ok else 'missed'}" for phase, ok in zip(probes, held, strict=True)]
    found = [
        f"- Generator at {phase.load.label}: {', '.join(phase.complaints())}. These figures are partly the generator's."
        for phase in (*each.closed, *each.swept, *probes)
        if phase.complaints()
    ]
    return [*_table(_HEAD, rows), "", f"Search: {', '.join(tried) or 'none'}.", *([""] if found else []), *found]


def _row(phase: Phase) -> Sequence[str]:
    latency = Histogram(phase.latency)
    values = [latency.percentile_s(percentile) for percentile in PERCENTILES]
    others = ", ".join(f"{name} {count}" for name, count in phase.statuses.items() if name != "OK")
    service_s = Histogram(phase.service).percentile_s(50)
    rates = (f"{phase.answered_hz:.2f}", f"{phase.goodput_hz:.2f}")
    return (
        phase.load.label, str(phase.sent), *rates, *(_ms(value) for value in values), _ms(latency.max_s),
        _ms(service_s), f"{phase.usage.server_cores:.2f} + {phase.usage.generator_cores:.2f}", others or "0",
    )  # fmt: skip


def _stages(each: Measured) -> list[str]:
    rows: list[Sequence[str]] = []
    for phase in (*_few(each.swept), _fullest(each)):
        for name, encoded in phase.stages.items():
            stage = Histogram(encoded)
            found = (*(_ms(stage.percentile_s(p)) for p in PERCENTILES), _ms(stage.max_s))
            rows.append((phase.load.label, name, *found, f"{stage.mean_s * phase.answered_hz:.2f}"))
    words = """Stages by the server's clock. Each has its own percentiles, which don't add up to the whole call's.
"At once" is the mean number of calls in the stage (Little's law): a network that runs one photo at a time and has
1 there is what limits the server."""
    head = ("load", "stage", *(f"p{percentile:g}" for percentile in PERCENTILES), "max", "at once")
    return [*words.split("\n"), "", *_table(head, rows)]


def _generator(results: Results) -> list[str]:
    if not results.generator:
        return ["Not tested in this run: `make bench-selftest`."]
    found = results.generator
    error_ms, plain_ms, lag_ms = (found[key] * 1e3 for key in ("null_error_p99_s", "plain_error_p99_s", "lag_p99_s"))
    rate_hz, per_core_hz = found["trivial_calls_hz"], found["trivial_calls_per_core_hz"]
    waited = found["waited_of_paused"]
    return [
        f"- Against a server that waits 5 ms, p99 was {error_ms:.2f} ms more, {plain_ms:.2f} of them with gRPC's own",
        f"  blocking client too; calls went {lag_ms:.2f} ms late (p99).",
        f"- Trivial calls: {rate_hz:.0f} a second, {per_core_hz:.0f} for each core of its own that it used.",
        f"- No wait is omitted: a server was stopped for a second, and {waited:.2f} times as many calls as must have",
        "  waited for over half of it have that in their latency (a stop may last longer than asked for).",
    ]


def _machine(results: Results) -> list[str]:
    lines = [f"- {name}: {_in_line(str(value))}" for name, value in results.machine.items()]
    lines.append(f"- commit: {results.commit}")
    for each in results.measured:
        lines += [f"- {each.label}: " + "; ".join(f"{name}: {value}" for name, value in each.settings.items())]
    return lines


def _curves(ran: Sequence[Measured]) -> list[tuple[str, Phase]]:
    return [(each.name, _fullest(each)) for each in ran]


def _fullest(each: Measured) -> Phase:
    """Returns the closed loop with the most callers."""
    return max(each.closed, key=lambda phase: phase.load.amount)


def _at_share(ran: Sequence[Measured]) -> list[tuple[str, Phase]]:
    chosen: list[tuple[str, Phase]] = []
    for each in ran:
        wanted_hz = 0.7 * max(phase.answered_hz for phase in each.closed)
        nearest = min(each.swept, key=lambda phase: abs(phase.load.amount - wanted_hz))
        chosen.append((f"{each.name} at {nearest.load.amount:.1f}/s", nearest))
    return chosen


def _few(phases: Sequence[Phase]) -> list[Phase]:
    """Returns the lowest, the middle and the highest load."""
    ordered = sorted(phases, key=lambda phase: phase.load.amount)
    return [ordered[index] for index in sorted({0, len(ordered) // 2, len(ordered) - 1})]


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1e3:.3g}" if value_s < 0.1 else f"{value_s * 1e3:.0f}"


def _in_line(text: str) -> str:
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
