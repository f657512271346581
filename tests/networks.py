"""Networks of a few nodes, whose answers can be computed by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mattebox_export.cached import downloads
from mattebox_export.catalogue import CATALOGUE
from mattebox_export.core import Core
from mattebox_export.fetching import fetch
from mattebox_export.named_core import named_core

COLOUR_LABELS = ("background", "red", "green", "blue")
# Logits of the colour network for RGB in [0, 1]: a colour wins where it exceeds the other two by more than 0.2.
COLOUR_WEIGHTS = np.array([[0, 0, 0], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32) * 10
COLOUR_BIAS = np.array([2.02, 0, 0, 0], np.float32)  # between two steps of 8 bits, so that no two logits tie


def colour_network(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Computes the colour network in numpy: RGB float32 (N, 3, h, w) in [0, 1] to logits (N, 4, h, w)."""
    logits = np.einsum("nchw,kc->nkhw", image, COLOUR_WEIGHTS) + COLOUR_BIAS[:, np.newaxis, np.newaxis]
    return np.asarray(logits, np.float32)


def save_colour_core(path: Path, size: int | None = None, batch: int | str = "batch") -> Path:
    """Saves the colour network as ONNX, one 1x1 convolution, for any size or for a fixed square."""
    weights = COLOUR_WEIGHTS.reshape(4, 3, 1, 1)
    return _save(path, "Conv", {"weights": weights, "bias": COLOUR_BIAS}, 4, size, batch)


def save_brightness_core(path: Path, size: int | None = None) -> Path:
    """Saves a saliency network that gives the mean of red, green and blue."""
    return _save(path, "Conv", {"weights": np.full((1, 3, 1, 1), 1 / 3, np.float32)}, 1, size, "batch")


def save_half_size_core(path: Path) -> Path:
    """Saves the colour network at half the resolution, which the artifact's tail must enlarge."""
    weights = COLOUR_WEIGHTS.reshape(4, 3, 1, 1)
    return _save(path, "Conv", {"weights": weights, "bias": COLOUR_BIAS}, 4, None, "batch", strides=[2, 2])


def atrous_network(rates: tuple[int, ...], channels: int = 5, seed: int = 0) -> onnx.ModelProto:
    """Builds the sum of atrous 3x3 convolutions with random weights, with and without a bias."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    for index, rate in enumerate(rates):
        kernel = rng.normal(0, 1, (channels, 3, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{index}"))
        names = ["pixels", f"kernel{index}"]
        if index % 2 == 0:
            weights.append(numpy_helper.from_array(rng.normal(0, 1, channels).astype(np.float32), f"bias{index}"))
            names.append(f"bias{index}")
        pads, dilations = [rate] * 4, [rate] * 2
        nodes.append(helper.make_node("Conv", names, [f"scores{index}"], pads=pads, dilations=dilations))
    nodes.append(helper.make_node("Sum", [f"scores{index}" for index in range(len(rates))], ["scores"]))
    return build(nodes, weights, channels)


def joined_network(parts: tuple[int, ...], bias: bool, seed: int = 0) -> onnx.ModelProto:
    """Builds 1x1 convolutions with random weights, and a 3x3 convolution of their concatenated results."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    for index, channels in enumerate(parts):
        kernel = rng.normal(0, 1, (channels, 3, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"part{index}_kernel"))
        nodes.append(helper.make_node("Conv", ["pixels", f"part{index}_kernel"], [f"part{index}"]))
    nodes.append(helper.make_node("Concat", [f"part{index}" for index in range(len(parts))], ["joined"], axis=1))
    weights.append(numpy_helper.from_array(rng.normal(0, 1, (4, sum(parts), 3, 3)).astype(np.float32), "kernel"))
    names = ["joined", "kernel"]
    if bias:
        weights.append(numpy_helper.from_array(rng.normal(0, 1, 4).astype(np.float32), "bias"))
        names.append("bias")
    nodes.append(helper.make_node("Conv", names, ["scores"], pads=[1, 1, 1, 1]))
    return build(nodes, weights, 4)


def build(
    nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto], channels: int, sides: str = ""
) -> onnx.ModelProto:
    """Builds a core from `pixels`, float32 (N, 3, height, width), to `scores`, float32 (N, channels, height, width).

    `sides` stands before the names of the result's height and width, where these aren't those of the photo.
    """
    graph = helper.make_graph(
        nodes,
        "few_nodes",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [
            helper.make_tensor_value_info(
                "scores", TensorProto.FLOAT, ["batch", channels, f"{sides}height", f"{sides}width"]
            )
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
    return model


def sensitive_network(count: int) -> onnx.ModelProto:
    """Builds a saliency network that gives the mean of red, green and blue by 4 + `count` 1x1 convolutions.

    The layers `choose0`, `choose1` ... get the mean beside a channel that is 200 times larger, which they leave out.
    Both have one scale in int8, with steps that leave little of the mean. The other layers lose nothing in int8.
    """
    kernels = {"first": np.full((2, 3), 1 / 3, np.float32), "spread": np.array([[1, 0], [0, 200]], np.float32)}
    kernels |= {f"choose{index}": np.array([[1, 0], [200, 0]], np.float32) for index in range(count - 1)}
    kernels[f"choose{count - 1}"] = np.array([[1, 0], [1, 0]], np.float32)
    kernels |= {"gather": np.full((2, 2), 0.5, np.float32), "last": np.full((1, 2), 0.5, np.float32)}
    nodes: list[onnx.NodeProto] = []
    source = "pixels"
    for name in kernels:
        target = "scores" if name == "last" else f"{name}_sums"
        nodes.append(helper.make_node("Conv", [source, f"{name}_kernel"], [target], name=name))
        if name != "last":
            nodes.append(helper.make_node("Relu", [target], [f"{name}_values"], name=f"{name}_relu"))
        source = f"{name}_values"
    weights = [numpy_helper.from_array(k[..., np.newaxis, np.newaxis], f"{name}_kernel") for name, k in kernels.items()]
    return build(nodes, weights, 1)


def _save(
    path: Path,
    op: str,
    constants: dict[str, NDArray[np.float32]],
    channels: int,
    size: int | None,
    batch: int | str,
    **attributes: Any,
) -> Path:
    sides: list[int | str] = [size or "height", size or "width"]
    outside: list[int | str] = sides if not attributes else ["low_height", "low_width"]
    graph = helper.make_graph(
        [helper.make_node(op, ["pixels", *constants], ["scores"], **attributes)],
        "few_nodes",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, *sides])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, channels, *outside])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
    return path


def u2netp_core() -> Core:
    """U2-Net-p with its trained weights, which are downloaded once."""
    entry, folder = CATALOGUE["u2netp"], downloads(Path.home() / ".cache" / "mattebox")
    list(fetch(entry.source, folder, (), offline=False))
    return named_core(entry, folder / entry.source.file)
