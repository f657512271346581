"""Rewrites atrous 3x3 convolutions as sums of 1x1 convolutions, for OpenVINO on CPUs with matrix units.

A 3x3 convolution of rate d is the sum of nine 1x1 convolutions, here called taps, of shifted inputs. Where a shift
reaches beyond the map it meets padding, which is zero. So each tap is computed only inside the map, and zeros are put
around its result. The sum equals the convolution but for the order of additions, at every size of the map, because the
graph itself computes the lengths.

The gain depends on the device. At rates of 12, 24 and 36 on a map of 57x75 the rewrite saves 42 % of the
multiplications of a provider that computes the padding too, as OpenVINO does where it uses AMX. onnxruntime's CPU
provider, and OpenVINO on AVX2, skip the padding by themselves, so that there is no gain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_MIN_RATE = 9  # with smaller rates nearly all of a tap is inside the usual maps, so that nothing is saved
_HEIGHT, _WIDTH = 2, 3
_OFFSETS = ((1, 0), (0, -1), (2, 1))  # (index in the kernel, sign of the shift), the centre first


def rewrite_atrous(model: onnx.ModelProto) -> int:
    """Rewrites, in place, every 3x3 convolution of rate 9 or more that keeps the size of its map.

    Returns:
        The number of rewritten convolutions.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    rewritten = 0
    for node in model.graph.node:
        rate = _rate(node, weights)
        if rate is None:
            nodes.append(node)
            continue
        rewritten += 1
        taps = _Taps(f"taps/{node.output[0]}")
        nodes.extend(taps.build(node, rate, [numpy_helper.to_array(weights[name]) for name in node.input[1:]]))
        model.graph.initializer.extend(taps.constants())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return rewritten


def _rate(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> int | None:
    """The rate of a convolution that can be rewritten; None for every other node."""
    if node.op_type != "Conv" or any(name not in weights for name in node.input[1:]):
        return None
    given: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    rate = int(given.get("dilations", [1])[0])
    needed = {"dilations": [rate] * 2, "pads": [rate] * 4}
    allowed = {"strides": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
    fits = (
        rate >= _MIN_RATE
        and list(weights[node.input[1]].dims[2:]) == [3, 3]
        and all(given.get(name) == value for name, value in needed.items())
        and all(given.get(name, value) == value for name, value in allowed.items())
    )
    return rate if fits else None


@dataclass(frozen=True)
class _Axis:
    """Names of values (int64, shape (1,)) in the graph: the lengths along one axis, in rows or columns.

    A tap that is shifted by the rate covers `length` - rate rows. If the map is not larger than the rate the tap covers
    none. As a tensor may not be empty, one row is computed then, and cut off by a negative pad.

    Args:
        length: length of the map.
        start: first input row of the tap that is shifted forwards.
        end: row behind the last input row of the tap that is shifted backwards.
        pads: rows to put before and behind a tap's result, by the sign of its shift.
    """

    length: str
    start: str
    end: str
    pads: dict[int, tuple[str, str]]


@dataclass
class _Taps:
    """The nodes and constants that take the place of one convolution."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    values: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    def constants(self) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(value, name) for name, value in self.values.items()]

    def build(self, node: onnx.NodeProto, rate: int, weights: Sequence[NDArray[np.float32]]) -> list[onnx.NodeProto]:
        kernel, bias = weights[0], weights[1:]
        source = node.input[0]
        shape = self._add("Shape", [source])
        axes = {axis: self._axis(shape, axis, rate) for axis in (_HEIGHT, _WIDTH)}
        rows: list[str] = []
        for row, up in _OFFSETS:
            taps: list[str] = []
            for column, left in _OFFSETS:
                inputs = [self._inside(source, axes, up, left)]
                name = f"kernel_{row}_{column}"
                inputs.append(self._constant(name, kernel[:, :, row : row + 1, column : column + 1]))
                if up == left == 0 and bias:
                    inputs.append(self._constant("bias", bias[0]))
                taps.append(self._around(self._add("Conv", inputs, kernel_shape=[1, 1]), axes, _WIDTH, left))
            rows.append(self._around(self._sum(taps), axes, _HEIGHT, up))
        self._sum(rows)
        self.nodes[-1].output[0] = node.output[0]
        return self.nodes

    def _axis(self, shape: str, axis: int, rate: int) -> _Axis:
        zero, one, distance = self._number(0), self._number(1), self._number(rate)
        length = self._add("Slice", [shape, self._number(axis), self._number(axis + 1)])
        covered = self._add("Max", [self._add("Sub", [length, distance]), one])
        start = self._add("Sub", [length, covered])
        # A tap that is shifted forwards fills the first rows; if it is outside the map, its row goes behind the last.
        before_forward = self._add("Where", [self._add("Greater", [length, distance]), zero, length])
        before_back = self._add("Min", [distance, length])
        pads = {
            1: (before_forward, self._add("Sub", [start, before_forward])),
            -1: (before_back, self._add("Sub", [start, before_back])),
        }
        return _Axis(length, start, covered, pads)

    def _inside(self, source: str, axes: dict[int, _Axis], up: int, left: int) -> str:
        """Cuts out the part of the map that a tap covers."""
        cut = {axis: sign for axis, sign in ((_HEIGHT, up), (_WIDTH, left)) if sign}
        if not cut:
            return source
        starts = [axes[axis].start if sign > 0 else self._number(0) for axis, sign in cut.items()]
        ends = [axes[axis].length if sign > 0 else axes[axis].end for axis, sign in cut.items()]
        which = self._constant("axes_" + "".join(map(str, cut)), list(cut))
        return self._add("Slice", [source, self._join(starts), self._join(ends), which])

    def _around(self, values: str, axes: dict[int, _Axis], axis: int, sign: int) -> str:
        """Puts zeros where a tap was outside the map."""
        if not sign:
            return values
        pads = [self._number(0)] * 8
        pads[axis], pads[4 + axis] = axes[axis].pads[sign]
        return self._add("Pad", [values, self._join(pads)], mode="constant")

    def _sum(self, terms: Sequence[str]) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self._add("Add", [total, term])
        return total

    def _join(self, names: Sequence[str]) -> str:
        return names[0] if len(names) == 1 else self._add("Concat", list(names), axis=0)

    def _number(self, value: int) -> str:
        return self._constant(f"number_{value}", [value])

    def _constant(self, name: str, value: NDArray[np.float32] | Sequence[int]) -> str:
        name = f"{self.prefix}/{name}"
        self.values[name] = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else np.array(value, np.int64)
        return name

    def _add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        # ONNX's own helper takes a node's attributes as keywords.
        output = f"{self.prefix}/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output
