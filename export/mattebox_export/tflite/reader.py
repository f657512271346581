"""Reads a TFLite file into plain values.

Flatbuffers' Python code follows every offset in the file without a check. This module is the only one that lets it: it
bounds what it reads, and whatever goes wrong on the way becomes an ExportError.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import tflite
from numpy.typing import NDArray

from mattebox_export.errors import ExportError

_IDENTIFIER = b"TFL3"
_MOST_BYTES = 1 << 30  # ONNX's own format ends at 2 GiB, and fp16 weights take twice their size
_MOST_TABLES = 10_000  # operators or tensors of a file
_MOST_INPUTS = 64  # inputs or outputs of an operator
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 1 << 29  # of a tensor: 2 GiB in float32
_CUSTOM = "CUSTOM"
_DAMAGES = (struct.error, IndexError, TypeError, ValueError, OverflowError)  # what wrong offsets end as

_ACTIVATED = ("FusedActivationFunction",)
_WINDOW = ("Padding", "StrideW", "StrideH", *_ACTIVATED)
_DILATED = (*_WINDOW, "DilationWFactor", "DilationHFactor")
_POOL = (*_WINDOW, "FilterWidth", "FilterHeight")
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ADD": ("AddOptions", _ACTIVATED),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _POOL),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", *_ACTIVATED)),
    "CONV_2D": ("Conv2DOptions", _DILATED),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_DILATED, "DepthMultiplier")),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("WeightsFormat", "KeepNumDims", *_ACTIVATED)),
    "MAX_POOL_2D": ("Pool2DOptions", _POOL),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "MUL": ("MulOptions", _ACTIVATED),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "SUB": ("SubOptions", _ACTIVATED),
    "TRANSPOSE_CONV": ("TransposeConvOptions", _WINDOW),
}
"""The options that are read of each operator, by the names of the schema."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Args:
        name: the file's name for it.
        type: the schema's name of its type, such as FLOAT32.
        shape: its lengths; an activation of four dimensions is (N, H, W, C).
        data: its values as bytes, or None where an operator computes them.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Operator:
    """An operator of the file.

    Args:
        index: its place in the order of execution, from 0.
        kind: the schema's name, such as CONV_2D, or a custom operator's own name.
        custom: whether the kind is not the schema's.
        version: the version of the operator that the file asks for.
        inputs: indices of tensors; -1 for one that is left out.
        outputs: indices of tensors.
        options: the options by the schema's names.
        custom_options: a custom operator's options, in its own format.
    """

    index: int
    kind: str
    custom: bool
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, float]
    custom_options: bytes

    def refuse(self, reason: str) -> NoReturn:
        """Raises the ExportError that names this operator."""
        raise ExportError(f"the TFLite file's operator {self.index}, {self.kind}: {reason}")


@dataclass(frozen=True)
class TfliteFile:
    """A file's one graph.

    Args:
        tensors: all tensors.
        operators: the operators in the order of execution.
        inputs: indices of the graph's inputs.
        outputs: indices of the graph's outputs.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(data: bytes) -> TfliteFile:
    """Takes a TFLite file apart.

    Raises:
        ExportError: it is no TFLite file, is damaged, or has a form that the importer doesn't know.
    """
    if data[4:8] != _IDENTIFIER:
        raise ExportError("this is no TFLite file: it doesn't hold TFL3 behind its first four bytes")
    if len(data) > _MOST_BYTES:
        raise ExportError(f"the TFLite file has {len(data)} bytes, at most {_MOST_BYTES} can be imported")
    try:
        return _read(tflite.Model.GetRootAs(data, 0))
    except _DAMAGES as error:
        raise ExportError(f"the TFLite file is damaged: {error}") from error


def _read(model: tflite.Model) -> TfliteFile:
    if model.Version() != 3:
        raise ExportError(f"the TFLite file has version {model.Version()} of the format, only 3 can be imported")
    if model.SubgraphsLength() != 1:
        raise ExportError(f"the TFLite file has {model.SubgraphsLength()} graphs, only files with one can be imported")
    graph = model.Subgraphs(0)
    tensors = [_tensor(model, graph.Tensors(i)) for i in range(_bounded(graph.TensorsLength(), "tensors"))]
    kinds = [_kind(model.OperatorCodes(i)) for i in range(_bounded(model.OperatorCodesLength(), "operator codes"))]
    operators = [_operator(graph, i, kinds) for i in range(_bounded(graph.OperatorsLength(), "operators"))]
    inputs, outputs = _indices(graph.InputsLength(), graph.Inputs), _indices(graph.OutputsLength(), graph.Outputs)
    used = {index for operator in operators for index in operator.inputs if index != -1}
    used |= {index for operator in operators for index in operator.outputs} | {*inputs, *outputs}
    if outside := [index for index in used if not 0 <= index < len(tensors)]:
        raise ExportError(f"the TFLite file is damaged: it has {len(tensors)} tensors and uses tensor {outside[0]}")
    return TfliteFile(tuple(tensors), tuple(operators), inputs, outputs)


def _bounded(length: int, what: str, most: int = _MOST_TABLES) -> int:
    if length > most:
        raise ExportError(f"the TFLite file has {length} {what}, at most {most} can be imported")
    return length


def _indices(length: int, item: Any) -> tuple[int, ...]:
    return tuple(item(i) for i in range(_bounded(length, "inputs or outputs of one operator", _MOST_INPUTS)))


def _kind(code: tflite.OperatorCode) -> tuple[str, bool, int]:
    """The name of an operator, whether it is a custom one, and its version."""
    name = _name_of(tflite.BuiltinOperator, code.BuiltinCode())
    if name != _CUSTOM:
        return name, False, code.Version()
    return _text(code.CustomCode()), True, code.Version()


def _name_of(names: type, number: int) -> str:
    """The schema's name of a number, which its classes hold as class attributes."""
    found = [name for name, value in vars(names).items() if value == number and name.isupper()]
    return found[0] if found else f"number {number}"


def _text(name: bytes | None) -> str:
    return (name or b"")[:200].decode()


def _operator(graph: tflite.SubGraph, index: int, kinds: list[tuple[str, bool, int]]) -> Operator:
    table = graph.Operators(index)
    kind, custom, version = kinds[table.OpcodeIndex()]
    options = bytes(table.CustomOptions(i) for i in range(min(table.CustomOptionsLength(), 64))) if custom else b""
    return Operator(
        index=index,
        kind=kind,
        custom=custom,
        version=version,
        inputs=_indices(table.InputsLength(), table.Inputs),
        outputs=_indices(table.OutputsLength(), table.Outputs),
        options={} if custom or kind not in _OPTIONS else _options(table, index, kind),
        custom_options=options,
    )


def _options(table: tflite.Operator, index: int, kind: str) -> dict[str, float]:
    name, fields = _OPTIONS[kind]
    number, union = table.BuiltinOptionsType(), table.BuiltinOptions()
    if number == 0 or union is None:
        return dict.fromkeys(fields, 0)  # TFLite's own reader takes zeros too
    if number != getattr(tflite.BuiltinOptions, name):
        found = {value: each for each, value in vars(tflite.BuiltinOptions).items()}.get(number, number)
        raise ExportError(f"the TFLite file's operator {index}, {kind}: it has {found} instead of {name}")
    options = getattr(tflite, name)()
    options.Init(union.Bytes, union.Pos)
    return {field: getattr(options, field)() for field in fields}


def _tensor(model: tflite.Model, table: tflite.Tensor) -> Tensor:
    name = _text(table.Name())
    if table.Sparsity() is not None:
        raise ExportError(f"the TFLite file's tensor {name} is sparse, which can't be imported")
    if table.IsVariable():
        raise ExportError(f"the TFLite file's tensor {name} keeps a state between runs, which can't be imported")
    rank = _bounded(table.ShapeLength(), f"dimensions of the tensor {name}", _MOST_DIMENSIONS)
    shape = tuple(table.Shape(i) for i in range(rank))
    # A free batch is written as -1 there, and as 1 in the shape itself. Any other -1 is a size that is free.
    signature = [table.ShapeSignature(i) for i in range(min(table.ShapeSignatureLength(), _MOST_DIMENSIONS))]
    if min(shape, default=1) < 1 or -1 in signature[1:]:
        raise ExportError(f"the TFLite file's tensor {name} has no fixed shape: {list(signature or shape)}")
    if np.prod(shape, dtype=float) > _MOST_ELEMENTS:
        raise ExportError(f"the TFLite file's tensor {name} is too large: {list(shape)}")
    return Tensor(name, _name_of(tflite.TensorType, table.Type()), shape, _data(model, table.Buffer(), name))


def _data(model: tflite.Model, index: int, name: str) -> NDArray[np.uint8] | None:
    if index >= model.BuffersLength():
        raise ExportError(f"the TFLite file is damaged: the tensor {name} is in buffer {index}, which isn't there")
    buffer = model.Buffers(index)
    if buffer.Offset() > 1:
        raise ExportError(
            f"the values of the TFLite file's tensor {name} lie behind its tables, which can't be imported"
        )
    return buffer.DataAsNumpy() if buffer.DataLength() else None
