"""`make bench-pixels`: the time of the stages that touch pixels, against decoding and encoding alone.

Each photo goes from JPEG to JPEG on white, to a PNG cutout and to WebP on white, with one and with two threads, and in
turns with decoding and encoding alone and with the classic recipe (a float64 blend at full size). Ratios within one run
hold on other machines too, milliseconds don't. The photo shows an astronaut before a busy room, enlarged and with
grain; U²-Net-p finds its subject once, before the measurements.

The last table is the time of the processor, by stage, for the photo of `make bench`: a JPEG of 1000x667 that becomes a
PNG cutout.
"""

import argparse
import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import skimage.data
from load.photos import one_photo
from machine import describe_machine
from material import light_model
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox_server import logs
from mattebox_server.admission.budget import Budget
from mattebox_server.engine.config import EngineConfig
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.loading import load_engine
from mattebox_server.imaging import codec, headers
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.preprocess import preprocess
from mattebox_server.matting.backdrop import plain
from mattebox_server.matting.blend import composite, cutout
from mattebox_server.matting.matte import hard_mask, make_matte
from mattebox_server.memory import tune_malloc
from mattebox_server.records import Stage, Timeline
from mattebox_server.removal.stages import Found, finish, prepare
from mattebox_server.request import (
    ColorBackground,
    EncodedPhoto,
    ImageFormat,
    MatteMethod,
    MatteOptions,
    OutputOptions,
    RemovalRequest,
    TransparentBackground,
)
from mattebox_server.spec import ModelSpec

QUALITY = 90
LIMITS = PhotoLimits(10**9, 10**9)
WHITE = (255, 255, 255)
SUBJECT = frozenset((0,))
METHODS = (MatteMethod.GAUSSIAN, MatteMethod.GUIDED, MatteMethod.GRABCUT)

Timed = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Scene:
    """One photo and the network's answer to it.

    Args:
        spec: description of the network.
        file: photo as a JPEG file.
        photo: photo uint8 (H, W, 3), BGR.
        found: answer of the network.
    """

    spec: ModelSpec
    file: bytes
    photo: Pixels
    found: Inference


def main() -> int:
    """Prints the tables and writes the JSON file, if there is one to write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[1, 12, 48], help="default: 1 12 48")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="OpenCV's threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each way (default: 7)")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    tune_malloc()  # as the server does
    logs.configure("console", "warning")
    engine = load_engine([light_model()], EngineConfig(provider="cpu"))
    runs: list[dict[str, Any]] = []
    for megapixels in arguments.megapixels:
        scene = scene_of(engine, busy_photo(megapixels))
        for threads in arguments.threads:
            cv2.setNumThreads(threads)
            # One group after the other: after PNG's buffers the recipe's large arrays take several times as long.
            groups = (whole_ways(scene), stages(scene), encodings(scene))
            ms = {name: value for group in groups for name, value in measure(group, arguments.rounds).items()}
            runs.append({"megapixels": megapixels, "threads": threads, "ms": ms, "ratios": ratios(ms)})
            show(f"{megapixels:g} MP, {threads} thread(s): median ms", ms, runs[-1]["ratios"])
    cv2.setNumThreads(1)
    core_ms = processor_ms(scene_of(engine, plain_photo()), 5 * arguments.rounds)
    show("1000x667, JPEG to PNG cutout: median ms of the processor", core_ms, {})
    engine.close()
    if arguments.json:
        report = {"machine": describe_machine(), "rounds": arguments.rounds, "runs": runs, "core_ms": core_ms}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def busy_photo(megapixels: float) -> Pixels:
    """Returns a photo of so many megapixels, 4 to 3, whose subject covers a fifth of it: uint8 (H, W, 3), BGR."""
    person = np.asarray(cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR), np.uint8)
    framed = cv2.copyMakeBorder(person, 120, 0, 160, 170, cv2.BORDER_REFLECT_101)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    enlarged = cv2.resize(framed, (height * 4 // 3, height), interpolation=cv2.INTER_CUBIC)
    grain = np.asarray(np.random.default_rng(0).normal(0, 3, enlarged.shape), np.float32)
    photo: Pixels = np.clip(enlarged + grain, 0, 255).astype(np.uint8)
    return photo


def plain_photo() -> Pixels:
    """Returns the photo of `make bench`, whose subject covers a third of it: uint8 (667, 1000, 3), BGR."""
    file = one_photo().files[0]
    return codec.decode(file, headers.probe(file, LIMITS, "photo"), "photo").bgr


def scene_of(engine: Engine, photo: Pixels) -> Scene:
    """Returns a photo uint8 (H, W, 3), BGR, with the network's answer to it."""
    session = engine.network("").sessions[0]
    file = codec.encode(photo, ImageFormat.JPEG, QUALITY)
    found = session.run(preprocess(photo, session.spec.resize).image[np.newaxis], None)
    return Scene(session.spec, file, photo, Inference(found.foreground[0], None, 1, 0, 0))


class ProcessorTimeline(Timeline):
    """The stages of a request by the time of the processor that the whole process takes."""

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Appends the stage that the block is."""
        started_s = time.process_time()
        yield
        self.append(Stage(name, started_s, time.process_time() - started_s))


def processor_ms(scene: Scene, rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of the processor for each stage of a PNG cutout, and for all but the network."""
    output = OutputOptions(ImageFormat.PNG)
    request = RemovalRequest(EncodedPhoto(scene.file), background=TransparentBackground(), output=output)
    runs: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        times, started_s = ProcessorTimeline(), time.process_time()
        serve(scene, request, times)
        seconds = {stage.name: stage.seconds for stage in times}
        runs.append({**seconds, "all but the network": time.process_time() - started_s})
    return {name: 1000 * median(run[name] for run in runs[1:]) for name in runs[0]}


def whole_ways(scene: Scene) -> Timed:
    """Returns the ways from a photo's file to a composite's: each matte method, and decoding and encoding alone."""
    ways: Timed = {}
    for name, output_format in (("jpeg", ImageFormat.JPEG), ("png", ImageFormat.PNG), ("webp", ImageFormat.WEBP)):
        ways[f"{name}: decode and encode alone"] = partial(recode, scene.file, output_format)
        background = TransparentBackground() if output_format is ImageFormat.PNG else ColorBackground()
        for method in METHODS:
            request = RemovalRequest(
                EncodedPhoto(scene.file),
                matte=MatteOptions(method),
                background=background,
                output=OutputOptions(output_format, QUALITY),
            )
            ways[f"{name}: {method.value}"] = partial(serve, scene, request)
    return ways


def serve(scene: Scene, request: RemovalRequest, times: Timeline | None = None) -> bytes:
    """Runs the server's stages before and after the network, with the network's answer at hand."""
    times = Timeline() if times is None else times
    with Budget(2**40).share() as memory:
        prepared = prepare(request, scene.spec, LIMITS, memory, times)
    return finish(request, prepared, Found(scene.spec, SUBJECT, scene.found), times).image


def recode(file: bytes, output_format: ImageFormat) -> bytes:
    """Decodes and encodes a photo by the server's codec."""
    return codec.encode(codec.decode(file, headers.probe(file, LIMITS, "photo"), "photo").bgr, output_format, QUALITY)


def stages(scene: Scene) -> Timed:
    """Returns the stages one by one; the cost of foreground estimation is the difference of guided with and without."""
    photo, probability = scene.photo, scene.found.foreground
    mask = hard_mask(probability, None, SUBJECT)
    header = headers.probe(scene.file, LIMITS, "photo")
    bare = MatteOptions(MatteMethod.GUIDED, keep_edge_colors=True)
    rough = make_matte(photo, probability, mask, MatteOptions(MatteMethod.GAUSSIAN)).alpha
    matte = make_matte(photo, probability, mask, MatteOptions(MatteMethod.GUIDED))
    alpha, white, work = matte.alpha, plain(photo.shape[1], WHITE), photo.copy()

    def with_estimation() -> None:
        made = make_matte(photo, probability, mask, MatteOptions(MatteMethod.GUIDED))
        composite(work, alpha, white, made.restorer)

    def without_estimation() -> None:
        make_matte(photo, probability, mask, bare)
        composite(work, alpha, white)

    return {
        "probe": lambda: headers.probe(scene.file, LIMITS, "photo"),
        "decode": lambda: codec.decode(scene.file, header, "photo"),
        "preprocess": lambda: preprocess(photo, scene.spec.resize),
        "matte gaussian": lambda: make_matte(photo, probability, mask, MatteOptions(MatteMethod.GAUSSIAN)),
        "matte guided": lambda: make_matte(photo, probability, mask, bare),
        "matte grabcut": lambda: make_matte(
            photo, probability, mask, MatteOptions(MatteMethod.GRABCUT, keep_edge_colors=True)
        ),
        "matte and blend, guided, with estimation": with_estimation,
        "matte and blend, guided, without": without_estimation,
        "blend on white, gaussian": lambda: composite(work, rough, white),
        "blend on white, guided": lambda: composite(work, alpha, white),
        "cutout": lambda: cutout(work, alpha),
        "recipe: matte and blend": lambda: recipe(photo, mask),
    }


def encodings(scene: Scene) -> Timed:
    """Returns the encoders of a guided composite and cutout, and OpenCV's PNG of a cutout with the removed colours."""
    mask = hard_mask(scene.found.foreground, None, SUBJECT)
    matte = make_matte(scene.photo, scene.found.foreground, mask, MatteOptions(MatteMethod.GUIDED))
    on_white, unzeroed = scene.photo.copy(), np.dstack([scene.photo, matte.alpha])
    composite(on_white, matte.alpha, plain(on_white.shape[1], WHITE), matte.restorer)
    cut = cutout(scene.photo.copy(), matte.alpha, matte.restorer)
    return {
        "encode jpeg": lambda: codec.encode(on_white, ImageFormat.JPEG, QUALITY),
        "encode png cutout": lambda: codec.encode(cut, ImageFormat.PNG, 0),
        "encode webp": lambda: codec.encode(on_white, ImageFormat.WEBP, QUALITY),
        "OpenCV's png, colours left in": lambda: cv2.imencode(".png", unzeroed),
    }


def recipe(photo: Pixels, mask: Pixels) -> Pixels:
    """Blurs a mask uint8 (h, w) by 7x7 and blends the photo uint8 (H, W, 3) on white in float64, as in a notebook."""
    blurred = cv2.resize(cv2.GaussianBlur(mask, (7, 7), 0), (photo.shape[1], photo.shape[0]))
    alpha = (np.asarray(blurred) / 255.0)[..., np.newaxis]
    return (photo * alpha + np.full_like(photo, 255) * (1.0 - alpha)).astype(np.uint8)


def measure(ways: Timed, rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each way; the ways take turns, and the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            started = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: median(values[1:]) for name, values in times.items()}


def ratios(ms: dict[str, float]) -> dict[str, float]:
    """Returns the ratios of medians that the benchmark is about."""
    quick = ms["matte gaussian"] + ms["blend on white, gaussian"]
    found = {
        f"{name}: {method.value} / decode and encode alone": ms[f"{name}: {method.value}"]
        / ms[f"{name}: decode and encode alone"]
        for name in ("jpeg", "png", "webp")
        for method in METHODS
    }
    return {
        **found,
        "recipe / gaussian, matte and blend": ms["recipe: matte and blend"] / quick,
        "recipe / guided with estimation, matte and blend": ms["recipe: matte and blend"]
        / ms["matte and blend, guided, with estimation"],
        "OpenCV's png / png cutout, encode": ms["OpenCV's png, colours left in"] / ms["encode png cutout"],
    }


def show(title: str, ms: dict[str, float], ratios: dict[str, float]) -> None:
    """Prints a table of milliseconds and of their ratios."""
    table = Table(title=title, box=SIMPLE)
    table.add_column("what")
    table.add_column("ms", justify="right")
    for name, value in ms.items():
        table.add_row(name, f"{value:.1f}")
    table.add_section()
    for name, value in ratios.items():
        table.add_row(name, f"{value:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
