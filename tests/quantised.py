"""Calibrated networks that the tests share: specs, cores, photos and tables of networks of a few nodes."""

from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from mattebox_export.catalogue import Normalisation
from mattebox_export.core import Core
from mattebox_export.quantise.calibrate import Task
from mattebox_export.quantise.judging import float_session
from mattebox_export.quantise.photos import PhotoSet
from mattebox_export.quantise.table import Int8
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import Fidelity, ModelSpec, Resize, ShortSide, Target, Weights

DIGEST = "0" * 64
RESIZE = ShortSide(short_side_px=48, max_long_side_px=192)
GOOD = Fidelity(photos=9, mean_levels=1.0, median_iou=0.99, low_iou=0.9)
BAD = Fidelity(photos=9, mean_levels=3.5, median_iou=0.9, low_iou=0.5)


def saliency_spec(target: Target = "cpu", trained: bool = True, resize: Resize = RESIZE) -> ModelSpec:
    """The description of an fp32 artifact."""
    return ModelSpec(
        name="few_nodes",
        kind="saliency",
        labels=("subject",),
        resize=resize,
        precision="fp32",
        target=target,
        weights=Weights(source="test", sha256=DIGEST, trained=trained),
        licence="MIT",
        tools={},
    )


def core_of(model: onnx.ModelProto) -> Core:
    """A core whose input is RGB in [0, 1]."""
    return Core(model, Normalisation((0, 0, 0), (1, 1, 1)), "none", lambda image: image, DIGEST)


def int8_of(ranges: dict[str, tuple[float, float]], *float_layers: str, symmetric: bool = False) -> Int8:
    """An int8 form without corrected biases."""
    return Int8(symmetric=symmetric, ranges=ranges, biases={}, float_layers=float_layers, fidelity=GOOD)


def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The result of a core, computed by onnxruntime as the graph says, without fusing nodes."""
    return float_session(model).run(None, {model.graph.input[0].name: image})[0]


def discs(count: int, height: int = 48, width: int = 64) -> list[Pixels]:
    """Photos uint8 (h, w, 3) BGR of a bright disc on something dark, far from the level where a subject begins."""
    return [_disc(np.random.default_rng(seed), height, width) for seed in range(count)]


def _disc(rng: np.random.Generator, height: int, width: int) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    centre_y, centre_x, radius = height * rng.uniform(0.4, 0.6), width * rng.uniform(0.4, 0.6), height * 0.3
    inside: NDArray[np.bool_] = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
    shades = np.where(inside[..., np.newaxis], rng.integers(180, 256, 3), rng.integers(10, 80, 3))
    return np.clip(shades + rng.integers(-8, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def save_photos(folder: Path, count: int = 12) -> Path:
    """Writes `discs` as PNG files into a new folder."""
    folder.mkdir(parents=True)
    for index, photo in enumerate(discs(count)):
        cv2.imwrite(str(folder / f"{index:03}.png"), photo)
    return folder


def task_of(model: onnx.ModelProto, target: Target = "cpu", trained: bool = True) -> Task:
    """A network that is to be calibrated with six discs, and judged on six others."""
    photos = discs(12)
    spec = saliency_spec(target, trained)
    return Task(core_of(model), spec, PhotoSet(photos[::2], photos[1::2], "discs"), symmetric=target == "cuda")
