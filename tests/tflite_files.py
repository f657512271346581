"""TFLite files for tests, built table by table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite
from numpy.typing import NDArray


@dataclass(frozen=True)
class Step:
    """An operator of the file.

    Args:
        kind: the schema's name, or a custom operator's own.
        inputs: names of activations, or constants; None for an input that is left out.
        output: name of its output.
        shape: shape that the file declares for its output.
        options: the options by the schema's names.
        custom: a custom operator's options.
        version: the operator's version.
    """

    kind: str
    inputs: Sequence[str | NDArray[Any] | None]
    output: str
    shape: Sequence[int]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    custom: bytes | None = None
    version: int = 1


OPTIONS = {
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions", "CONCATENATION": "ConcatenationOptions", "SOFTMAX": "SoftmaxOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
}  # fmt: skip
TYPES = {np.dtype(np.float32): "FLOAT32", np.dtype(np.float16): "FLOAT16", np.dtype(np.int32): "INT32",
         np.dtype(np.int8): "INT8"}  # fmt: skip


class File:
    """Builds one file.

    Args:
        steps: the operators in the order of execution.
        shape: shape of the only input, which is called x.
        outputs: names of the graph's outputs; the last operator's if there are none.
        changes: other values for fields of the tables: {"Tensor x": {"IsVariable": True}, "Model": {"Version": 2}}.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        shape: Sequence[int],
        outputs: Sequence[str] = (),
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.builder = flatbuffers.Builder(1024)
        self.changes = changes or {}
        self.buffers = [self.table("Buffer")]
        self.tensors: list[int] = []
        self.names: dict[str, int] = {}
        for name, lengths in {"x": shape, **{step.output: step.shape for step in steps}}.items():
            self.names[name] = self.tensor(name, "FLOAT32", lengths, 0)
        operators: list[int] = []
        codes: list[int] = []
        for step in steps:
            inputs = [self.input(each) for each in step.inputs]
            codes.append(self.code(step))
            operators.append(self.operator(step, inputs, len(codes) - 1))
        ends = [self.names[name] for name in outputs or [steps[-1].output]]
        graph = self.table(
            "SubGraph",
            Tensors=self.vector(self.tensors),
            Operators=self.vector(operators),
            Inputs=self.integers([0]),
            Outputs=self.integers(ends),
        )
        model = self.table(
            "Model",
            Version=3,
            OperatorCodes=self.vector(codes),
            Subgraphs=self.vector([graph]),
            Buffers=self.vector(self.buffers),
        )
        self.builder.Finish(model, b"TFL3")
        self.data = bytes(self.builder.Output())

    def table(self, kind: str, name: str = "", **fields: Any) -> int:
        fields |= self.changes.get(f"{kind} {name}".strip(), {})
        getattr(tflite, f"{kind}Start")(self.builder)
        for each, value in fields.items():
            getattr(tflite, f"{kind}Add{each}")(self.builder, value)
        end: int = getattr(tflite, f"{kind}End")(self.builder)
        return end

    def vector(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def integers(self, values: Sequence[int]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependInt32(int(value))
        return self.builder.EndVector()

    def tensor(self, name: str, dtype: str, shape: Sequence[int], buffer: int) -> int:
        fields = {"Shape": self.integers(shape), "Name": self.builder.CreateString(name), "Buffer": buffer}
        number = getattr(tflite.TensorType, dtype)
        self.tensors.append(self.table("Tensor", name, Type=number, **fields))
        return len(self.tensors) - 1

    def input(self, value: str | NDArray[Any] | None) -> int:
        if value is None:
            return -1
        if isinstance(value, str):
            return self.names[value]
        data = self.builder.CreateByteVector(value.tobytes())
        self.buffers.append(self.table("Buffer", Data=data))
        return self.tensor(f"c{len(self.tensors)}", TYPES[value.dtype], value.shape, len(self.buffers) - 1)

    def code(self, step: Step) -> int:
        if step.custom is not None:
            name = self.builder.CreateString(step.kind)
            return self.table("OperatorCode", DeprecatedBuiltinCode=32, CustomCode=name, Version=step.version)
        number = getattr(tflite.BuiltinOperator, step.kind)
        return self.table(
            "OperatorCode", DeprecatedBuiltinCode=min(number, 127), BuiltinCode=number, Version=step.version
        )

    def operator(self, step: Step, inputs: Sequence[int], code: int) -> int:
        fields: dict[str, int] = {}
        if step.kind in OPTIONS:
            fields["BuiltinOptions"] = self.table(OPTIONS[step.kind], **step.options)
            fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, OPTIONS[step.kind])
        if step.custom is not None:
            fields["CustomOptions"] = self.builder.CreateByteVector(step.custom)
        outputs = self.integers([self.names[step.output]])
        return self.table(
            "Operator", step.output, OpcodeIndex=code, Inputs=self.integers(inputs), Outputs=outputs, **fields
        )
