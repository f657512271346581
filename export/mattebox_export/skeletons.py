"""Networks without weights: torchvision's graphs as torch exports them, with a place for each entry of a state dict.

`make skeletons` writes the files from torch. A skeleton is ONNX in which the weights are initializers of the names and
shapes of the state dict, but without data, and in which the batch norms follow their convolutions, as they do in torch.
"""

import gzip
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from mattebox_export.checkpoint import State
from mattebox_export.checkpoint_values import printable
from mattebox_export.errors import ExportError

_PACKAGED = "skeletons"
LAST_LAYER = "classifier.4"
"""The layer with one output for each class, by its name in a state dict of torchvision's DeepLabV3."""
_AUXILIARY = "aux_classifier."  # a head that only training needs
_COUNTER = ".num_batches_tracked"  # of training too; torch before 0.4.1 had none

Weights = dict[str, NDArray[np.float32]]


def load_skeleton(name: str) -> onnx.ModelProto:
    """Reads the skeleton of a network of torchvision, by its name in the catalogue."""
    file = resources.files("mattebox_export") / _PACKAGED / f"{name}.onnx.gz"
    return onnx.load_model_from_string(gzip.decompress(file.read_bytes()))


def places(skeleton: onnx.ModelProto) -> dict[str, TensorProto]:
    """The initializers of a skeleton that wait for weights, by name."""
    return {
        tensor.name: tensor for tensor in skeleton.graph.initializer if tensor.data_location == TensorProto.EXTERNAL
    }


def set_classes(skeleton: onnx.ModelProto, state: State) -> None:
    """Gives a skeleton as many classes as a state dict has."""
    last = state.get(f"{LAST_LAYER}.weight")
    if last is None or last.ndim != 4:
        return  # `fit` says so
    classes = last.shape[0]
    for name in ("weight", "bias"):
        places(skeleton)[f"{LAST_LAYER}.{name}"].dims[0] = classes
    skeleton.graph.output[0].type.tensor_type.shape.dim[1].dim_value = classes


def fit(skeleton: onnx.ModelProto, state: State, source: Path) -> Weights:
    """Takes what a skeleton needs out of a state dict.

    Args:
        skeleton: the network, with the right number of classes.
        state: the state dict, with or without the auxiliary head.
        source: its file, for the error.

    Returns:
        Contiguous arrays by name, which share the state's memory where they can.

    Raises:
        ExportError: the state dict is not this network's.
    """
    wanted = places(skeleton)
    state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    counters = {name.removesuffix(".running_mean") + _COUNTER for name in wanted if name.endswith(".running_mean")}
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys() - counters)
    wrong = [
        f"{key} {state[key].dtype} {state[key].shape} instead of {tuple(wanted[key].dims)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != tuple(wanted[key].dims) or state[key].dtype.kind != "f"
    ]
    if missing or surplus or wrong:
        raise ExportError(
            f"{source} does not fit the network: {len(missing)} keys missing {missing[:3]}, {len(surplus)} unknown"
            f" {[printable(key) for key in surplus[:3]]}, {len(wrong)} of another shape or type {wrong[:3]}"
        )
    return {name: np.require(state[name], np.float32, ["C_CONTIGUOUS", "ALIGNED"]) for name in wanted}


def fold(skeleton: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """Fills a copy of a skeleton, whose batch norms become part of their convolutions.

    With s = scale / sqrt(variance + epsilon), the convolution's weights are multiplied by s, and it gets the bias
    shift - mean x s. That is computed in float64, so that only the result is rounded.

    Args:
        skeleton: the network, which stays as it is.
        weights: float32 arrays for all its places, as `fit` returns them.

    Raises:
        ExportError: a layer's weights are not finite numbers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    norms = {node.input[0]: node for node in skeleton.graph.node if node.op_type == "BatchNormalization"}
    _drop(model.graph, norms)
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        norm = norms.get(node.output[0])
        if norm is None:
            values: Sequence[NDArray[np.floating[Any]]] = [weights[name] for name in node.input[1:]]
        else:
            values = _folded(norm, weights, node.input[1])
            node.input.append(f"{node.input[1]}_bias")
            node.output[0] = norm.output[0]
        for array, name in zip(values, node.input[1:], strict=True):
            model.graph.initializer.append(_tensor(array, name))
    return model


def _drop(graph: onnx.GraphProto, norms: Mapping[str, onnx.NodeProto]) -> None:
    """Drops the batch norms, their inputs, of which `norms` has the names, and all places for weights."""
    nodes = [node for node in graph.node if node.op_type != "BatchNormalization"]
    values = [value for value in graph.value_info if value.name not in norms]
    constants = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.value_info.extend(values)
    graph.initializer.extend(constants)


def _folded(norm: onnx.NodeProto, weights: Weights, kernel: str) -> list[NDArray[np.float64]]:
    (epsilon,) = (attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
    scale, shift, mean, variance = (weights[name].astype(np.float64) for name in norm.input[1:])
    with np.errstate(all="ignore"):  # the caller looks for what is not finite
        factor = scale / np.sqrt(variance + epsilon)
        return [weights[kernel] * factor[:, np.newaxis, np.newaxis, np.newaxis], shift - mean * factor]


def _tensor(values: NDArray[np.floating[Any]], name: str) -> TensorProto:
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise ExportError(f"the weights of {name} are not finite numbers: the training went wrong, or the file")
    return numpy_helper.from_array(single, name)
