"""The form of a core's graph for the execution provider that it is exported for."""

import warnings

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from mattebox_export.atrous import rewrite_atrous
from mattebox_export.concat import split_concatenations
from mattebox_export.errors import ExportError
from mattebox_export.ordering import drop_unused_weights
from mattebox_server.spec import Precision, Target


def forms_for(model: onnx.ModelProto, target: Target, precision: Precision) -> list[tuple[onnx.ModelProto, str]]:
    """The forms of a core of which one is the fastest on a target, the likeliest first.

    | target | forms | reason |
    |---|---|---|
    | cpu | convolutions of concatenations split (`concat`) | U2-Net-p takes 295 instead of 315 ms |
    | openvino | atrous convolutions as 1x1 taps (`atrous`), or unchanged | ResNet-101 takes a third with AMX |
    | cuda | unchanged | cuDNN has kernels for atrous convolutions; not measured |

    Args:
        model: the core, which stays as it is.
        target: execution provider that the artifact is for.
        precision: fp32 or fp16.

    Returns:
        Changed copies of the core, each with a phrase about the changes.

    Raises:
        ExportError: the core can't be converted to fp16.
    """
    forms: list[tuple[onnx.ModelProto, str]] = []
    copy = _copy(model)
    if target == "cpu" and (split := split_concatenations(copy)):
        forms.append((copy, f"{split} convolutions of concatenations split"))
    elif target == "openvino" and (rewritten := rewrite_atrous(copy)):
        del copy.graph.value_info[:]  # shapes of values that the rewritten core doesn't have
        forms += [(copy, f"{rewritten} atrous convolutions as taps"), (_copy(model), "unchanged")]
    elif precision == "fp16":
        forms.append((_halve(copy), "core in half precision, head and tail in fp32"))
    else:
        forms.append((copy, "unchanged"))
    for form, _ in forms:
        drop_unused_weights(form.graph)
    return forms


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Converts weights and activations to fp16; casts at its input and output keep these in fp32."""
    for node in model.graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
            node.input[1] = node.input[2] = ""  # empty tensors, which older files have here, can't be converted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights below fp16's smallest number; the parity check judges them
            halved = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:  # the converter raises whatever shape inference brings up
        raise ExportError(f"--precision fp16: the core can't be converted: {error}") from error
    OnnxModel(halved).topological_sort()  # the converter puts its casts at the end, where ONNX doesn't allow them
    del halved.graph.value_info[:]
    return halved
