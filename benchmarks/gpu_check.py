"""`make gpu-check`: parity, latency and throughput of every GPU provider, which no test can show without a GPU.

Each network runs on cuda (fp32, tf32, fp16, int8, and with its atrous convolutions rewritten) and on TensorRT (fp16,
int8), each on the artifact that `mattebox-export` makes for it. Parity is against the fp32 artifact on the CPU
provider, at two sizes and batches of 1 and 4. A combination that can't be exported, can't run, or computes something
else, is a failure with its reason, and the exit code is 1. Artifacts that are in the folder of models already are not
exported again, so that an int8 artifact may be calibrated by photos beforehand.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
from machine import describe_machine
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox_export.arguments import parse_arguments
from mattebox_export.artifact import export
from mattebox_export.errors import ExportError
from mattebox_server import logs
from mattebox_server.engine import selfcheck
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable, RequestedPrecision
from mattebox_server.engine.nvidia import find_gpu
from mattebox_server.engine.opening import ArtifactSession
from mattebox_server.engine.opening import open_session as open_planned
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.proving import plans
from mattebox_server.engine.selfcheck import check_session
from mattebox_server.spec import BACKGROUND, Precision

_MODELS = {"deeplabv3_resnet101": ((450, 600), (600, 450)), "u2netp": ((320, 320),)}
_BATCH = 8


@dataclass(frozen=True)
class Combination:
    """How a network runs in one row of the table.

    Args:
        provider: execution provider.
        running: precision that the engine is asked for.
        target: target that the artifact is exported for.
        artifact: precision of the artifact.
    """

    provider: ProviderName
    running: RequestedPrecision
    target: str
    artifact: str


COMBINATIONS = (
    Combination("cuda", "fp32", "cuda", "fp32"),
    Combination("cuda", "tf32", "cuda", "fp32"),
    Combination("cuda", "fp16", "cuda", "fp16"),
    Combination("cuda", "tf32", "openvino", "fp32"),  # the rewritten form, so that cuda's form is chosen by measurement
    Combination("tensorrt", "fp16", "cuda", "fp16"),
    Combination("cuda", "auto", "cuda", "int8"),  # for its parity: CUDA has no int8 convolution, so it gains nothing
    Combination("tensorrt", "auto", "cuda", "int8"),
)


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Args:
        network: name of the network.
        combination: how it ran.
        failure: the reason why it failed; "" if it didn't.
        mean_levels: mean difference of the foreground from the CPU provider, in grey levels; worst photo.
        same_classes: share of pixels with the same class, worst photo; None from a saliency network.
        open_s: seconds to compile and check.
        latency_ms: median of one photo, copies to and from the device included.
        photos_per_s: photos in a second, in batches of 8.
    """

    network: str
    combination: Combination
    failure: str = ""
    mean_levels: float | None = None
    same_classes: float | None = None
    open_s: float | None = None
    latency_ms: float | None = None
    photos_per_s: float | None = None


def main() -> int:
    """Prints the table and writes it as JSON; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="measurements of each figure (default: 50)")
    parser.add_argument("--models", default=",".join(_MODELS), help="by commas")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"), help="folder for models and engines")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/gpu-DATE.json")
    arguments = parser.parse_args()
    logs.configure("console", "info")  # TensorRT builds for minutes, and says so
    try:
        gpu = find_gpu()
    except ProviderUnavailable as error:
        print(f"gpu-check: {error}")
        return 1
    options = EngineConfig(cache_dir=arguments.cache / "compiled", max_batch=_BATCH)
    results = [
        measure(model, combination, options, arguments)
        for model in arguments.models.split(",")
        for combination in COMBINATIONS
        if combination.artifact in get_args(Precision)
    ]
    show(results)
    path = arguments.json or Path("benchmarks/results") / f"gpu-{datetime.now(UTC):%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = describe_machine() | {"gpu": asdict(gpu)}
    path.write_text(json.dumps({"machine": machine, "results": [asdict(row) for row in results]}, indent=1) + "\n")
    print(f"wrote {path}")
    return 1 if any(row.failure for row in results) else 0


def measure(model: str, how: Combination, options: EngineConfig, arguments: argparse.Namespace) -> Result:
    """Measures one row."""
    reference = open_session(model, Combination("cpu", "fp32", "cpu", "fp32"), options, arguments.cache)
    started_s = time.perf_counter()
    try:
        session = open_session(model, how, options, arguments.cache)
        check_session(session)
    except (ExportError, ProviderUnavailable) as error:
        return Result(model, how, failure=str(error))
    open_s = time.perf_counter() - started_s
    levels, share = parity(session, reference, _MODELS[model])
    size = _MODELS[model][0]
    once, many = run_seconds(session, size, 1, arguments.rounds), run_seconds(session, size, _BATCH, arguments.rounds)
    failure = "" if selfcheck.is_within_limits(session.precision, levels, share) else "computes something else"
    return Result(model, how, failure, levels, share, open_s, once * 1000, _BATCH / many)


def open_session(model: str, how: Combination, options: EngineConfig, cache: Path) -> ArtifactSession:
    """Opens a session on an artifact, which is exported first unless it exists.

    Raises:
        ExportError: it can't be exported.
        ProviderUnavailable: the provider can't run it.
    """
    path = cache / f"{model}-{how.target}-{how.artifact}.onnx"
    if not path.exists():
        weights = [] if model == "u2netp" else ["--weights", "random"]
        form = ["--target", how.target, "--precision", how.artifact]
        parsed = parse_arguments([model, *weights, *form, "-o", str(path)])
        if isinstance(parsed, Path):
            raise ValueError(model)
        for line in export(parsed):
            print(line)
    asked = EngineConfig(
        precision=how.running,
        threads=options.threads,
        cache_dir=options.cache_dir,
        max_batch=options.max_batch,
    )
    return open_planned(plans(read_artifact(path), find_device(how.provider), asked)[0])


def parity(
    session: ArtifactSession, reference: ArtifactSession, sizes: Sequence[tuple[int, int]]
) -> tuple[float, float | None]:
    """Mean difference of the foreground in grey levels, and share of pixels of the same class, of the worst photo."""
    levels: list[float] = []
    shares: list[float] = []
    for size in sizes:
        for batch in (1, 4):
            photos = np.stack([selfcheck.synthetic_photo(*size, seed) for seed in range(batch)])
            found, expected = (each.run(photos, keep_of(each, batch)) for each in (session, reference))
            apart = np.abs(found.foreground.astype(int) - expected.foreground)
            levels.extend(float(one.mean()) for one in apart)
            if found.classes is not None and expected.classes is not None:
                shares.extend(float(one.mean()) for one in found.classes == expected.classes)
    return max(levels), min(shares, default=None)


def keep_of(session: ArtifactSession, batch: int) -> NDArray[np.float32] | None:
    """The input `keep` with all classes but the background; None for a saliency network."""
    if session.spec.kind == "saliency":
        return None
    return np.tile(np.array([label != BACKGROUND for label in session.spec.labels], np.float32), (batch, 1))


def run_seconds(session: ArtifactSession, size: tuple[int, int], batch: int, rounds: int) -> float:
    """Median seconds of one run, after five that are not counted."""
    photos = np.stack([selfcheck.synthetic_photo(*size, 0)] * batch)
    keep = keep_of(session, batch)
    times: list[float] = []
    for _ in range(rounds + 5):
        started_s = time.perf_counter()
        session.run(photos, keep)
        times.append(time.perf_counter() - started_s)
    return median(times[5:])


def show(results: Sequence[Result]) -> None:
    """Prints the table."""
    table = Table(title="GPU providers, against onnxruntime's CPU provider in fp32", box=SIMPLE)
    for column in ("network", "provider", "runs in", "artifact", "levels", "classes", "open s", "ms", "photos/s"):
        table.add_column(column, justify="left" if column in ("network", "provider") else "right")
    for row in results:
        how = row.combination
        cells = [row.network, how.provider, how.running, f"{how.target} {how.artifact}"]
        if row.latency_ms is None:
            table.add_row(*cells, row.failure)
            continue
        share = "" if row.same_classes is None else f"{row.same_classes:.2%}"
        cells += [f"{row.mean_levels:.3f}", share, f"{row.open_s:.1f}", f"{row.latency_ms:.1f}"]
        table.add_row(*cells, f"{row.photos_per_s:.1f}{' ' + row.failure if row.failure else ''}")
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
