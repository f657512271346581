"""`make bench-engine`: the network alone, by everything that runs it on this machine, in turns within one run.

Each way takes the same photo, uint8 at the network's size, to the same two maps: uint8 foreground and classes. The
plain graph is torch's own export of exactly that; OpenVINO runs it by its own package. Mattebox is measured by the
engine's session, as the server uses it, on every provider and precision that this machine has. Ways that are slow are
measured in fewer rounds, and the table says in how many. What counts are the ratios of medians; milliseconds are this
machine's. A way that can't run stands in the table with its reason.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe_machine
from map_quality import answers, judge
from numpy.typing import NDArray
from plain_ways import FLAGSHIP, LIGHT, REFERENCES, kept, plain_graph, plain_onnxruntime, plain_openvino, torch_ways
from quality import Case, mask_cases
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from serving import measure_serving, measure_starts
from ways import Way, race

from mattebox_export.arguments import parse_arguments
from mattebox_export.artifact import export
from mattebox_export.errors import ExportError
from mattebox_server import logs
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable, RunningPrecision
from mattebox_server.engine.opening import open_session
from mattebox_server.engine.plan import Plan
from mattebox_server.engine.providers import best_target, find_device
from mattebox_server.engine.selfcheck import synthetic_photo
from mattebox_server.errors import StartupError

SIZES = {FLAGSHIP: ((450, 600), (520, 520)), LIGHT: ((320, 320),)}
_PROVIDERS: tuple[tuple[ProviderName, RunningPrecision], ...] = (
    ("cpu", "fp32"),
    ("cpu", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def main() -> int:
    """Prints tables, writes JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of every way (default: 2)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each way (default: 9)")
    parser.add_argument("--models", default=f"{FLAGSHIP},{LIGHT}", help="by commas")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--no-server", action="store_true", help="leave out starts, latency and throughput")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"), help="folder for exported models")
    parser.add_argument("--data", type=Path, help="folder of photos, as for bench-quality, to judge by")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/engine-DATE.json")
    arguments = parser.parse_args()
    logs.configure("console", "warning")
    arguments.cache.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    report: dict[str, Any] = {"machine": machine, "threads": arguments.threads, "networks": []}
    cases = [] if arguments.data is None else mask_cases(arguments.data)
    print(f"{machine['processor']}, {machine['class']}, {arguments.threads} threads, {len(cases)} photos")
    for model in arguments.models.split(","):
        for height, width in SIZES[model]:
            ways = list(ways_of(model, height, width, arguments))
            race(ways, arguments.rounds)
            judge_ways(model, ways, cases, arguments.cache)
            report["networks"].append(show(model, height, width, ways))
    if not arguments.no_server:
        artifact = exported(LIGHT, best_target(), "auto", arguments.cache)
        report["start"] = measure_starts(artifact, arguments.threads)
        report["serving"] = measure_serving(artifact, arguments.threads, arguments.rounds)
        Console(width=110).print_json(data={"start": report["start"], "serving": report["serving"]})
    path = arguments.json or Path("benchmarks/results") / f"engine-{datetime.now(UTC):%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def judge_ways(model: str, ways: Sequence[Way], cases: Sequence[Case], cache: Path) -> None:
    """Judges the answers of Mattebox's ways beside those of its own fp32; random weights are not judged."""
    if model == FLAGSHIP or not cases:
        return
    resize = read_artifact(exported(model, "cpu", "fp32", cache)).spec.resize
    judged = [(way, way.answer) for way in ways if way.answer is not None]
    expected = answers(cases, resize, judged[0][1])
    for way, answer in judged:
        way.quality = judge(cases, resize, expected, answer)


def ways_of(model: str, height: int, width: int, arguments: argparse.Namespace) -> Iterator[Way]:
    """Everything that runs a network at a size."""
    photo = synthetic_photo(height, width, 0)[np.newaxis]
    if model == FLAGSHIP:
        yield from torch_ways(photo, arguments)
    plain = plain_graph(model, arguments.cache)
    yield Way("onnxruntime CPU fp32, plain graph", plain_onnxruntime(plain, model, photo, arguments.threads))
    yield from plain_openvino(plain, model, photo, arguments.threads)
    for provider, precision in _PROVIDERS:
        yield mattebox_way(model, provider, precision, photo, arguments)


def mattebox_way(
    model: str,
    provider: ProviderName,
    precision: RunningPrecision,
    photo: NDArray[np.uint8],
    arguments: argparse.Namespace,
) -> Way:
    """The engine's session, on an artifact of the provider's form; also in bf16 that the artifact's gate refuses."""
    name = f"Mattebox {provider} {precision}"
    try:
        device = find_device(provider)
        if precision == "bf16" and "bf16" not in device.native:
            raise ProviderUnavailable("this CPU has no bf16")
        path = exported(model, provider, "int8" if precision == "int8" else "fp32", arguments.cache)
        plan = Plan(read_artifact(path), device, precision, EngineConfig(threads=arguments.threads))
        session = open_session(plan)
    except (ProviderUnavailable, ExportError) as error:
        return Way(name, None, str(error))
    keep = None if session.spec.kind == "saliency" else kept()
    return Way(
        name,
        lambda: session.run(photo, keep),
        answer=lambda image: session.run(image[np.newaxis], keep).foreground[0],
    )


def exported(model: str, target: str, precision: str, cache: Path) -> Path:
    """An artifact, which is exported anew unless one of this version of the format is there."""
    path = cache / f"{model}-{target}-{precision}.onnx"
    with contextlib.suppress(StartupError):
        read_artifact(path)
        return path
    weights = ["--weights", "random"] if model == FLAGSHIP else []
    parsed = parse_arguments([model, *weights, "--target", target, "--precision", precision, "-o", str(path)])
    if isinstance(parsed, Path):
        raise ValueError(model)
    for line in export(parsed):
        print(line)
    return path


def show(model: str, height: int, width: int, ways: list[Way]) -> dict[str, Any]:
    """Prints one table; returns its rows."""
    medians = {way.name: median(way.seconds) for way in ways if way.seconds}
    reference, fastest_plain = medians[REFERENCES[model]], min(t for n, t in medians.items() if "plain" in n)
    table = Table(title=f"{model}, {width}x{height}, median of one photo", box=SIMPLE)
    columns = "way", "ms", "min", "rounds", f"faster than {REFERENCES[model]}", "than the best plain graph"
    for column in (*columns, "levels from fp32", "IoU with fp32", "IoU with truth"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in ways:
        if way.seconds:
            cells = [f"{medians[way.name] * 1000:.0f}", f"{min(way.seconds) * 1000:.0f}", str(len(way.seconds))]
            cells += [f"{reference / medians[way.name]:.2f}", f"{fastest_plain / medians[way.name]:.2f}"]
            if way.quality is not None:
                fidelity = way.quality.fidelity
                cells += [f"{fidelity.mean_levels:.2f}", f"{fidelity.median_iou:.3f}", f"{way.quality.true_iou:.3f}"]
            table.add_row(way.name, *cells)
        else:
            table.add_row(way.name, "-", "-", "-", way.reason, "")
    Console(width=180).print(table)
    rows = [_row(way) for way in ways]
    return {"network": model, "height_px": height, "width_px": width, "ways": rows}


def _row(way: Way) -> dict[str, Any]:
    quality = way.quality
    judged = None if quality is None else quality.fidelity.model_dump() | {"true_iou": quality.true_iou}
    return {"name": way.name, "reason": way.reason, "seconds": way.seconds, "quality": judged}


if __name__ == "__main__":
    sys.exit(main())
