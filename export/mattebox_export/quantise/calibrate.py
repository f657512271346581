"""Finds how a network becomes int8: the ranges of its activations, its biases, and the layers that stay in float.

NNCF measures the ranges and corrects the biases. What it takes to keep the quality is found by trial, on photos that
the ranges were not taken from: with and without corrected biases, and with ever more layers in float. Most of the loss
usually comes from a few layers (of U2-Net-p's 119 from one). The first and last layers of a network always stay in
float, as they cost little time and much quality. Ranges are symmetric for TensorRT only, because they were never
better for U2-Net-p and DeepLabV3-MobileNetV2.
"""

import logging
import os
import tempfile
from collections.abc import Container, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.parity import normalise
from mattebox_export.quantise.graph import layers, outer_layers, quantise
from mattebox_export.quantise.judging import compare, foregrounds, in_bf16
from mattebox_export.quantise.photos import PhotoSet
from mattebox_export.quantise.table import Int8, encode_bias
from mattebox_export.race import Form, answer, open_form
from mattebox_export.wrap import wrap
from mattebox_server.engine.config import ProviderUnavailable
from mattebox_server.engine.providers import find_device
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import MAX_MEAN_LEVELS, MIN_LOW_IOU, MIN_MEDIAN_IOU, Fidelity, ModelSpec

_RANKING_PHOTOS = 3
_MARGIN = 0.8  # other photos than these will judge: the search goes on until so much of each limit is enough
_HOPELESS = 8.0  # corrected biases change the loss by less than this factor
_COUNTS = (1, 2, 3, 5, 8, 12, 18, 27, 40)  # numbers of inner layers in float that are tried
_UNJUDGED = Fidelity(photos=1, mean_levels=0, median_iou=1, low_iou=1)
_MOST_FLOAT = 0.25  # share of the layers; with more of them in float, int8 isn't much faster than fp32


class GateFailed(ExportError):
    """No int8 form of the network passes the gate. The message says how near the best one came."""


@dataclass(frozen=True)
class Task:
    """A network that is to be calibrated.

    Args:
        core: the core, as `prepare` and `name_nodes` return it.
        spec: description of its fp32 artifact.
        photos: photos that calibrate and judge.
        symmetric: whether activations must have a zero point of 0.
    """

    core: Core
    spec: ModelSpec
    photos: PhotoSet
    symmetric: bool

    def artifact(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The artifact of a changed core."""
        return wrap(replace(self.core, model=model), self.spec)

    def expected(self) -> list[Pixels]:
        """The foregrounds of the photos that judge, uint8 (h, w), in fp32."""
        return foregrounds(self.artifact(self.core.model), self.spec, self.photos.judging)

    def fidelity(self, model: onnx.ModelProto, expected: Sequence[Pixels]) -> Fidelity:
        """How near a changed core comes to fp32."""
        return compare(expected, foregrounds(self.artifact(model), self.spec, self.photos.judging))


def judge_bf16(task: Task, expected: Sequence[Pixels]) -> Fidelity:
    """How near the core comes to fp32 in bf16: on this processor if it has bf16, else with rounded numbers."""
    model = task.artifact(task.core.model)
    try:
        device = find_device("openvino")
    except ProviderUnavailable:  # the package isn't installed, or has no wheel for this machine
        device = None
    if device is None or "bf16" not in device.native:
        return task.fidelity(in_bf16(task.core.model), expected)
    with tempfile.TemporaryDirectory() as folder:
        session = open_form(Form(model, task.spec, "bf16"), device, Path(folder), "bf16")
        return compare(expected, [answer(session, photo) for photo in task.photos.judging])


def find_int8(task: Task, expected: Sequence[Pixels]) -> Generator[str, None, Int8]:
    """Finds an int8 form that passes the gate with a margin, with as few layers in float as are needed.

    Random weights have no quality to lose, so that the first form is taken.

    Args:
        task: the network.
        expected: the foregrounds that `Task.expected` returns.

    Yields:
        A line of text about each trial.

    Raises:
        GateFailed: there is none, even with a quarter of the layers in float.
    """
    best: Int8 | None = None
    for float_layers in _float_layers(task):
        for int8 in _variants(task, float_layers):
            fidelity = task.fidelity(quantise(task.core.model, int8), expected)
            biases = "corrected" if int8.biases else "own"
            yield f"int8 with {len(float_layers)} layers in float and {biases} biases: {fidelity}"
            judged = int8.model_copy(update={"fidelity": fidelity})
            if best is None or loss(fidelity) < loss(best.fidelity):
                best = judged
            if loss(fidelity) <= _MARGIN or not task.spec.weights.trained:  # random weights have no quality to lose
                return judged
            if loss(fidelity) > _HOPELESS:
                break
    if best is None or not best.fidelity.passes:
        raise GateFailed("no layer can be int8" if best is None else f"int8 is too far from fp32: {best.fidelity}")
    return best


def loss(fidelity: Fidelity) -> float:
    """How much of the gate's limits is used up: 1 where the worst of the three figures is at its limit."""
    return max(
        fidelity.mean_levels / MAX_MEAN_LEVELS,
        (1 - fidelity.median_iou) / (1 - MIN_MEDIAN_IOU),
        (1 - fidelity.low_iou) / (1 - MIN_LOW_IOU),
    )


def _float_layers(task: Task) -> Iterator[frozenset[str]]:
    """The layers to keep in float at each trial: the outer ones, and from the second trial on the worst ones too."""
    outer, names = outer_layers(task.core.model), [node.name for node in layers(task.core.model)]
    if len(outer) == len(names):
        return
    yield outer
    ranked = _rank(task, outer)
    for count in _COUNTS:
        if count <= max(1, _MOST_FLOAT * len(names)):
            yield outer.union(ranked[:count])


def _rank(task: Task, outer: frozenset[str]) -> list[str]:
    """The names of the inner layers, those first that change the answer most when they alone are int8."""
    from rich.progress import track  # noqa: PLC0415 - comes with NNCF, which is optional

    model = task.core.model
    names = {node.name for node in layers(model)}
    ranges, _ = measure(task.core, task.photos.calibration[:_RANKING_PHOTOS], sorted(outer), task.symmetric)
    photos = task.photos.calibration[:_RANKING_PHOTOS]
    expected = foregrounds(task.artifact(model), task.spec, photos)
    errors: dict[str, float] = {}
    for name in track(sorted(names - outer), description="Search for sensitive layers"):
        feeding = {value: ranges[value] for value in _feeding(model, name, ranges)}
        others = tuple(sorted(names - {name}))
        alone = Int8(symmetric=task.symmetric, ranges=feeding, biases={}, float_layers=others, fidelity=_UNJUDGED)
        maps = foregrounds(task.artifact(quantise(model, alone)), task.spec, photos)
        errors[name] = compare(expected, maps).mean_levels
    return sorted(errors, key=lambda name: -errors[name])


def _feeding(model: onnx.ModelProto, name: str, ranges: Container[str]) -> set[str]:
    """The values with a range that reach a layer without passing through another value with a range."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found, open_values = set[str](), [node.input[0] for node in model.graph.node if node.name == name]
    while open_values:
        value = open_values.pop()
        if value in ranges:
            found.add(value)
        elif value in makers:
            open_values.extend(makers[value].input)
    return found


def _variants(task: Task, float_layers: frozenset[str]) -> Iterator[Int8]:
    """The int8 forms with the same float layers: with the network's own biases, and with corrected ones."""
    names = tuple(sorted(float_layers))
    ranges, biases = measure(task.core, task.photos.calibration, names, task.symmetric)
    yield Int8(symmetric=task.symmetric, ranges=ranges, biases={}, float_layers=names, fidelity=_UNJUDGED)
    if biases:
        yield Int8(symmetric=task.symmetric, ranges=ranges, biases=biases, float_layers=names, fidelity=_UNJUDGED)


def measure(
    core: Core, photos: Sequence[Pixels], float_layers: Sequence[str], symmetric: bool
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Has NNCF measure activations and correct biases (fast bias correction), with some layers in float.

    Returns:
        The least and greatest value of each activation that NNCF quantises, by its name, and the corrected biases as
        `Int8.biases` holds them.

    Raises:
        ExportError: NNCF isn't installed, or can't quantise the network.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF may send usage data to its makers
    try:
        import nncf  # noqa: PLC0415 - optional, and its import takes seconds
    except ImportError as error:
        raise ExportError("int8 without a calibration table needs NNCF: pip install 'mattebox[quantize]'") from error
    nncf.set_log_level(logging.ERROR)
    name = core.model.graph.input[0].name
    inputs = [{name: normalise(photo[np.newaxis], core.normalisation)} for photo in photos]
    preset = nncf.QuantizationPreset.PERFORMANCE if symmetric else nncf.QuantizationPreset.MIXED
    try:
        quantised = nncf.quantize(
            core.model,
            nncf.Dataset(inputs),
            preset=preset,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=list(float_layers)),
        )
    except Exception as error:  # NNCF raises whatever its backends raise
        raise ExportError(f"NNCF can't quantise the network: {error}") from error
    return _ranges(quantised), _biases(core.model, quantised)


def _ranges(quantised: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    constants = _constants(quantised)
    found: dict[str, tuple[float, float]] = {}
    for node in quantised.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            scale, zero_point = (constants[name] for name in node.input[1:])
            limits = np.iinfo(zero_point.dtype)
            low, high = ((limit - zero_point.astype(np.float64)) * scale for limit in (limits.min, limits.max))
            found[node.input[0]] = float(low.min()), float(high.max())
    return found


def _biases(model: onnx.ModelProto, quantised: onnx.ModelProto) -> dict[str, str]:
    """The biases that NNCF has changed."""
    before, after = _constants(model), _constants(quantised)
    own = {
        node.name: before[node.input[2]] for node in layers(model) if len(node.input) > 2 and node.input[2] in before
    }
    found: dict[str, str] = {}
    for node in quantised.graph.node:
        if node.name in own and node.input[2] in after:
            bias = after[node.input[2]].astype(np.float32).ravel()
            if not np.array_equal(bias, own[node.name]):
                found[node.name] = encode_bias(bias)
    return found


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The values of initializers and constants, by their names."""
    found: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found
