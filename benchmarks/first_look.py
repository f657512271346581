"""`make bench-first-look`: a photo at a time through the server, the same pipeline in this process, and the recipe.

All three run the same network on the same provider and threads, take turns photo by photo, and are compared by the
median of each size, so that a machine that drifts drifts for all. The recipe is the classic one: float64 blend at the
photo's size. What counts is the ratio; milliseconds are this machine's.
"""

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import onnxruntime as ort
import skimage.data
from material import light_model
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import mattebox
from mattebox_server import logs
from mattebox_server.admission.admission import Admission
from mattebox_server.admission.lane import LaneLimits
from mattebox_server.engine.config import EngineConfig
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.loading import load_engine
from mattebox_server.imaging.codec import Limits
from mattebox_server.local import LocalServer
from mattebox_server.removal.pipeline import Pipeline
from mattebox_server.request import EncodedPhoto, ImageFormat, OutputOptions, RemovalRequest

Bytes = NDArray[np.uint8]
Call = Callable[[bytes], object]

MEGAPIXELS = (0.3, 1.0, 12.0)
QUALITY = 90


def main() -> int:
    """Prints a table, and writes it as JSON where asked to; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of JPEG photos (default: an astronaut at three sizes)")
    parser.add_argument("--model", type=Path, help="artifact (default: u2netp, exported)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each photo (default: 9)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine, and for pixels (default: 2)")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    photos = photos_of(arguments.data)
    model = arguments.model or light_model()
    logs.configure("console", "warning")
    engine = load_engine([model], EngineConfig(provider="cpu", threads=arguments.threads))
    cv2.setNumThreads(1)
    flags = ["--provider", "cpu", "--engine-threads", str(arguments.threads), "--pixel-threads", str(arguments.threads)]
    with LocalServer([model], flags) as server, mattebox.Client(server.address) as client, asyncio.Runner() as runner:
        ways: dict[str, Call] = {
            "recipe": lambda photo: recipe(engine, photo),
            "in process": in_process(engine, arguments.threads, runner),
            "server": lambda photo: client.remove_background(photo, output=mattebox.Output(format="jpeg")),
        }
        rows = {name: measure(ways, photo, arguments.rounds) for name, photo in photos.items()}
    engine.close()
    show(rows)
    if arguments.json:
        report = {"machine": machine(), "model": str(model), "rounds": arguments.rounds, "median_ms": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(ways: dict[str, Call], photo: bytes, rounds: int) -> dict[str, float]:
    """Median milliseconds of each way; the ways take turns, the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            started = time.perf_counter()
            call(photo)
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: median(values[1:]) for name, values in times.items()}


def in_process(engine: Engine, threads: int, runner: asyncio.Runner) -> Call:
    """The server's pipeline without the server."""
    models = tuple(network.spec.name for network in engine.networks)
    admission = Admission(models, LaneLimits(1, 64, 60), 10**9)
    pipeline = Pipeline(engine, admission, Limits(10**9, 10**9), threads)
    output = OutputOptions(format=ImageFormat.JPEG, quality=QUALITY)
    return lambda photo: runner.run(pipeline.remove_background(RemovalRequest(EncodedPhoto(photo), output=output)))


def recipe(engine: Engine, file: bytes) -> bytes:
    """Photo -> network -> threshold -> 7x7 blur -> float64 blend on white -> JPEG, written as in a notebook."""
    photo = np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    session = engine.network("").sessions[0]
    small = np.asarray(cv2.resize(photo, (320, 320), interpolation=cv2.INTER_AREA), np.uint8)
    foreground = session.run(small[np.newaxis], None).foreground[0]
    mask = np.asarray(cv2.threshold(foreground, 127, 255, cv2.THRESH_BINARY)[1], np.uint8)
    blurred = np.asarray(cv2.resize(cv2.GaussianBlur(mask, (7, 7), 0), (photo.shape[1], photo.shape[0])), np.uint8)
    alpha = (blurred / 255.0)[..., np.newaxis]
    composite = photo * alpha + np.full_like(photo, 255) * (1.0 - alpha)
    return cv2.imencode(".jpg", composite.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def photos_of(folder: Path | None) -> dict[str, bytes]:
    """JPEG files by name."""
    if folder is not None:
        found = {path.name: path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}
        if not found:
            raise SystemExit(f"bench: no *.jpg in {folder}")
        return found
    astronaut = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    photos: dict[str, bytes] = {}
    for megapixels in MEGAPIXELS:
        side = round((megapixels * 1e6) ** 0.5)
        scaled = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_CUBIC)
        photos[f"{megapixels} MP"] = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return photos


def show(rows: dict[str, dict[str, float]]) -> None:
    """Prints medians and what they are to each other."""
    table = Table(title="median ms a photo, JPEG to JPEG on white", box=SIMPLE)
    for column in ("photo", "recipe", "in process", "server", "recipe / server", "server / in process"):
        table.add_column(column, justify="left" if column == "photo" else "right")
    for name, ms in rows.items():
        faster, overhead = ms["recipe"] / ms["server"], ms["server"] / ms["in process"]
        table.add_row(name, *(f"{value:.0f}" for value in ms.values()), f"{faster:.2f}", f"{overhead:.2f}")
    Console(width=100).print(table)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "mattebox": "0.1.0",
    }


if __name__ == "__main__":
    raise SystemExit(main())
