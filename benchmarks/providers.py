"""`make bench-engine`: the network alone, by everything that runs it on this machine, in turns within one run.

Each way takes the same photo, uint8 at the network's size, to the same two maps: uint8 foreground and classes. The
plain graph is torch's own export of exactly that; OpenVINO runs it by its own package. Mattebox is measured by the
engine's session, as the server uses it, on every provider and precision that this machine has. Ways that are slow are
measured in fewer rounds, and the table says in how many. What counts are the ratios of medians; milliseconds are this
machine's. A way that can't run stands in the table with its reason.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from machine import describe_machine
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from serving import measure_serving, measure_starts

from mattebox_export.arguments import parse_arguments
from mattebox_export.artifact import export
from mattebox_export.onnx_core import u2netp_core
from mattebox_server import logs
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable, RequestedPrecision
from mattebox_server.engine.opening import open_session
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.proving import plans
from mattebox_server.engine.selfcheck import synthetic_photo

Run = Callable[[], object]

FLAGSHIP, LIGHT = "deeplabv3_resnet101", "u2netp"
SIZES = {FLAGSHIP: ((450, 600), (520, 520)), LIGHT: ((320, 320),)}
REFERENCES = {FLAGSHIP: "torchvision eager fp32", LIGHT: "onnxruntime CPU fp32, plain graph"}
_PATIENCE_S = 30.0  # a way gets as many rounds as fit, two at least
_PROVIDERS: tuple[tuple[ProviderName, RequestedPrecision], ...] = (
    ("cpu", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
)


@dataclass
class Way:
    """One way to run a network at one size.

    Args:
        name: in the table.
        run: does it once; None if it can't.
        reason: why it can't.
        seconds: of each counted round.
    """

    name: str
    run: Run | None
    reason: str = ""
    seconds: list[float] = field(default_factory=list[float])


def main() -> int:
    """Prints tables, writes JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of every way (default: 2)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each way (default: 9)")
    parser.add_argument("--models", default=f"{FLAGSHIP},{LIGHT}", help="by commas")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--no-server", action="store_true", help="leave out starts, latency and throughput")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"), help="folder for exported models")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/engine-DATE.json")
    arguments = parser.parse_args()
    logs.configure("console", "warning")
    arguments.cache.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": describe_machine(), "threads": arguments.threads, "networks": []}
    for model in arguments.models.split(","):
        for height, width in SIZES[model]:
            ways = list(ways_of(model, height, width, arguments))
            race(ways, arguments.rounds)
            report["networks"].append(show(model, height, width, ways))
    if not arguments.no_server:
        artifact = exported(LIGHT, "cpu", arguments.cache)
        report["start"] = measure_starts(artifact, arguments.threads)
        report["serving"] = measure_serving(artifact, arguments.threads, arguments.rounds)
        Console(width=110).print_json(data={"start": report["start"], "serving": report["serving"]})
    path = arguments.json or Path("benchmarks/results") / f"engine-{datetime.now(UTC):%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def race(ways: list[Way], rounds: int) -> None:
    """All ways take turns; the first round warms up and tells how many rounds each gets."""
    counts: dict[str, int] = {}
    for way in ways:
        if way.run is not None:
            way.run()
            once_s = seconds(way.run)
            counts[way.name] = max(2, min(rounds, int(_PATIENCE_S / once_s)))
    for number in range(rounds):
        for way in ways:
            if way.run is not None and number < counts[way.name]:
                way.seconds.append(seconds(way.run))


def seconds(run: Run) -> float:
    """Wall-clock time of one run."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


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


def torch_ways(photo: NDArray[np.uint8], arguments: argparse.Namespace) -> Iterator[Way]:
    """The network by torch itself: as it comes, in bf16, compiled."""
    import torch  # noqa: PLC0415 - heavy, and not for every network
    from plain import PlainDeepLab  # noqa: PLC0415

    torch.set_num_threads(arguments.threads)
    network = PlainDeepLab().eval()
    image, keep = torch.tensor(photo), torch.tensor(kept())

    def eager() -> object:
        with torch.inference_mode():
            return network(image, keep)

    yield Way(REFERENCES[FLAGSHIP], eager)
    channels_last = PlainDeepLab().eval().to(memory_format=torch.channels_last)

    def autocast() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return channels_last(image, keep)

    yield Way("torch channels-last bf16 autocast", autocast)
    if arguments.no_compile:
        yield Way("torch.compile fp32", None, "left out by --no-compile")
        return
    compiled: Any = torch.compile(network)

    def inductor() -> object:
        with torch.no_grad():
            return compiled(image, keep)

    yield Way("torch.compile fp32", inductor)


def plain_graph(model: str, cache: Path) -> Path:
    """The network as its own tools export it, nothing of Mattebox in it."""
    path = cache / f"{model}-plain.onnx"
    if not path.exists():
        if model == FLAGSHIP:
            from plain import export_plain  # noqa: PLC0415 - torch

            export_plain(path)
        else:
            core = u2netp_core(Path(tempfile.gettempdir()) / "mattebox-bench")
            path.write_bytes(core.model.SerializeToString())
    return path


def plain_feeds(names: list[str], model: str, photo: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Inputs of the plain graph; U2-Net-p's own file takes a normalised tensor, which is ready here."""
    if model == FLAGSHIP:
        return dict(zip(names, (photo, kept()), strict=True))
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    tensor = ((photo[..., ::-1] / photo.max() - mean) / std).transpose(0, 3, 1, 2)
    return {names[0]: np.ascontiguousarray(tensor, np.float32)}


def kept() -> NDArray[np.float32]:
    """Everything but the background."""
    return np.array([[0] + [1] * 20], np.float32)


def plain_onnxruntime(path: Path, model: str, photo: NDArray[np.uint8], threads: int) -> Run:
    """Its own defaults, but for the threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = plain_feeds([value.name for value in session.get_inputs()], model, photo)
    return lambda: session.run(None, feeds)


def plain_openvino(path: Path, model: str, photo: NDArray[np.uint8], threads: int) -> Iterator[Way]:
    """OpenVINO by its own package, tuned for latency as its documentation says."""
    try:
        import openvino  # noqa: PLC0415 - optional
    except ImportError:
        yield Way("OpenVINO, plain graph", None, "not installed: pip install openvino")
        return
    core = openvino.Core()
    for precision in ("f32", "bf16"):
        name = f"OpenVINO {precision}, plain graph"
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            yield Way(name, None, "this CPU has no bf16")
            continue
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
        names = [value.any_name for value in request.model_inputs]
        feeds = plain_feeds(names, model, photo)
        yield Way(name, partial(request.infer, feeds))


def mattebox_way(
    model: str,
    provider: ProviderName,
    precision: RequestedPrecision,
    photo: NDArray[np.uint8],
    arguments: argparse.Namespace,
) -> Way:
    """The engine's session, on an artifact of the provider's form."""
    name = f"Mattebox {provider} {precision}"
    options = EngineConfig(threads=arguments.threads, precision=precision)
    try:
        device = find_device(provider)
        artifact = read_artifact(exported(model, provider, arguments.cache))
        session = open_session(plans(artifact, device, options)[0])
    except ProviderUnavailable as error:
        return Way(name, None, str(error))
    keep = None if artifact.spec.kind == "saliency" else kept()
    return Way(name, lambda: session.run(photo, keep))


def exported(model: str, target: str, cache: Path) -> Path:
    """An artifact, made unless it is there."""
    path = cache / f"{model}-{target}.onnx"
    if not path.exists():
        weights = ["--weights", "random"] if model == FLAGSHIP else []
        parsed = parse_arguments([model, *weights, "--target", target, "-o", str(path)])
        if parsed is None:
            raise ValueError(model)
        for line in export(parsed):
            print(line)
    return path


def show(model: str, height: int, width: int, ways: list[Way]) -> dict[str, Any]:
    """Prints one table; returns its rows."""
    medians = {way.name: median(way.seconds) for way in ways if way.seconds}
    reference, fastest_plain = medians[REFERENCES[model]], min(t for n, t in medians.items() if "plain" in n)
    table = Table(title=f"{model}, {width}x{height}, median of one photo", box=SIMPLE)
    for column in ("way", "ms", "min", "rounds", f"faster than {REFERENCES[model]}", "than the best plain graph"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in ways:
        if way.seconds:
            cells = [f"{medians[way.name] * 1000:.0f}", f"{min(way.seconds) * 1000:.0f}", str(len(way.seconds))]
            cells += [f"{reference / medians[way.name]:.2f}", f"{fastest_plain / medians[way.name]:.2f}"]
            table.add_row(way.name, *cells)
        else:
            table.add_row(way.name, "-", "-", "-", way.reason, "")
    Console(width=140).print(table)
    rows = [{key: value for key, value in asdict(replace(way, run=None)).items() if key != "run"} for way in ways]
    return {"network": model, "height_px": height, "width_px": width, "ways": rows}


if __name__ == "__main__":
    sys.exit(main())
