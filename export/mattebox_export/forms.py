"""What a core becomes for the device that it is exported for."""

import warnings

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from mattebox_export.atrous import rewrite_atrous
from mattebox_export.concat import split_concatenations
from mattebox_export.errors import ExportError
from mattebox_server.spec import Precision, Target


def bring_to_form(model: onnx.ModelProto, target: Target, precision: Precision) -> tuple[onnx.ModelProto, str]:
    """The core in the form that is fastest on a target, as far as that has been measured.

    | target | form | because |
    |---|---|---|
    | cpu | convolutions of concatenations split | U2-Net-p 295 instead of 315 ms, see `concat` |
    | openvino | atrous convolutions as 1x1 taps | 215-225 ms instead of 670-720 with AMX, see `atrous` |
    | cuda | as exported | cuDNN has kernels for atrous convolutions; not measured |

    Returns:
        The core, and what was done to it, for people to read.

    Raises:
        ExportError: it can't be brought to fp16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    done: list[str] = []
    if target == "cpu" and (split := split_concatenations(copy)):
        done.append(f"{split} convolutions of concatenations split")
    if target == "openvino":
        rewritten = rewrite_atrous(copy)
        done.append(f"{rewritten} atrous convolutions as taps")
        if rewritten:
            del copy.graph.value_info[:]  # a rewritten core has other values
    if precision == "fp16":
        copy = _halve(copy)
        done.append("core in fp16, head and tail in fp32")
    _drop_unused_weights(copy.graph)
    return copy, ", ".join(done) or "as it is"


def _drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Those of rewritten nodes, and of outputs that were cut off."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    inner = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    kept = [weights for weights in graph.initializer if inner or weights.name in used]  # a graph inside may use any
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and activations in fp16, between a cast from fp32 and one back."""
    for node in model.graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
            node.input[1] = node.input[2] = ""  # older files say "no scales" by an empty tensor, which can't be halved
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights below fp16's smallest number; the parity check judges that
            halved = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:  # the converter raises whatever shape inference brings up
        raise ExportError(f"--precision fp16: the core can't be converted: {error}") from error
    OnnxModel(halved).topological_sort()  # the converter puts its casts at the end
    del halved.graph.value_info[:]
    return halved
