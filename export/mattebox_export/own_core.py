"""A user's own network as a core: what it takes and gives is read from its file, and from its answer to a photo.

The file is run as it is, by onnxruntime, before anything is built of it. So whatever doesn't fit is said in terms of
the file, and the parity check has the file's own answer to compare with.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from mattebox_export.asking import Answer, ask, reference_of, size_of
from mattebox_export.catalogue import IMAGENET_MEAN, IMAGENET_STD, Activation, Layout, Normalisation, Triple
from mattebox_export.core import Core
from mattebox_export.ends import INPUT_TYPES, Giving, Taking, with_ends
from mattebox_export.errors import ExportError
from mattebox_export.normal_form import is_half, photo_inputs, prepare
from mattebox_export.onnx_file import OnnxFile, read_onnx
from mattebox_export.ordering import drop_dead_nodes
from mattebox_export.verdicts import are_probabilities, check_saliency, check_semantic
from mattebox_server.spec import Resize

_BYTES = Normalisation((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # values 0 to 255, as they are in the photo


@dataclass(frozen=True)
class Wishes:
    """What the command line says about a user's own network; None where it says nothing.

    Args:
        mean: mean of the input.
        std: standard deviation of the input.
        activation: function that turns a saliency network's values into probabilities.
        layout: order of the input's dimensions.
        output: name of the output that is used.
        labels: number of class names; None for a saliency network.
        resize: how photos get the network's size.
    """

    mean: Triple | None = None
    std: Triple | None = None
    activation: Activation | None = None
    layout: Layout | None = None
    output: str | None = None
    labels: int | None = None
    resize: Resize | None = None


def own_core(path: Path, wishes: Wishes) -> Core:
    """Reads a user's own network.

    Args:
        path: the ONNX file, whose weights may lie in files beside it.
        wishes: what the command line says about it.

    Raises:
        ExportError: the file can't be read, or the network doesn't fit.
    """
    file = read_onnx(path)
    taking = _taking(file.model.graph, wishes)
    normalisation = _normalisation(taking, wishes)
    output = _choose_output(file.model.graph, wishes)
    taking, answer, more = ask(path, taking, normalisation, output.name, wishes.resize)
    giving = _giving(answer, output.name, taking, wishes)
    maps = giving.read(answer)
    if wishes.labels is None:
        more += check_saliency(maps, output.name, wishes.activation)
    else:
        more += check_semantic(maps, output.name)
        giving = replace(giving, probabilities=are_probabilities(maps))
    half = is_half(file.model.graph)
    notes = (_say_taking(taking, normalisation, wishes), _say_giving(giving, file.model.graph), *more)
    if half:
        notes = (*notes, "half precision: written in single precision, which CPUs compute faster")
    model = _build(file, taking, giving, maps.shape)
    reference = reference_of(path, taking, giving)
    return Core(model, normalisation, wishes.activation or "none", reference, file.sha256, notes, half)


def _build(file: OnnxFile, taking: Taking, giving: Giving, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The network in normal form, from float32 (N, 3, H, W) to float32 (N, C, h, w), of which `shape` is an example."""
    graph = file.model.graph
    used = next(value for value in graph.output if value.name == giving.name)
    del graph.output[:]
    graph.output.append(used)
    model = prepare(file.model)
    drop_dead_nodes(model.graph)
    # The normal form may have other names and other types at both ends.
    (start,), (end,) = model.graph.input, model.graph.output
    taking = replace(taking, name=start.name, type=start.type.tensor_type.elem_type)
    return with_ends(model, taking, replace(giving, name=end.name), shape)


def _taking(graph: onnx.GraphProto, wishes: Wishes) -> Taking:
    inputs = photo_inputs(graph)
    if len(inputs) != 1:
        raise ExportError(f"the core must have one input, it has {[value.name for value in inputs]}")
    (value,) = inputs
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    shown = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
    about = f"the core's input {value.name} is {TensorProto.DataType.Name(tensor.elem_type)} {shown}"
    if len(dims) != 4:
        raise ExportError(
            f"{about}: it must have 4 dimensions, (N, 3, H, W) or (N, H, W, 3), not {len(dims)} dimensions"
        )
    if tensor.elem_type not in INPUT_TYPES:
        raise ExportError(f"{about}: its values must be float, float16, double or uint8")
    layout = wishes.layout or _layout(dims, about)
    batch, *rest = dims
    channels, height, width = rest if layout == "nchw" else (rest[2], *rest[:2])
    if channels not in (3, None):
        raise ExportError(
            f"{about}: it must have 3 channels, (N, 3, H, W) or (N, H, W, 3), as Mattebox gives red, green and blue"
        )
    if (height is None) != (width is None):
        raise ExportError(f"{about}: height and width must both be fixed or both be free")
    if batch not in (1, None):
        raise ExportError(f"{about}: its batch must be free or 1, not {batch}; export it again so")
    return Taking(value.name, tensor.elem_type, layout, batch, height, width)


def _layout(dims: list[int | None], about: str) -> Layout:
    if dims[1] == 3 and dims[3] == 3:
        raise ExportError(f"{about}: which dimension is red, green and blue? Say it by --layout nchw or nhwc")
    return "nhwc" if dims[3] == 3 else "nchw"


def _normalisation(taking: Taking, wishes: Wishes) -> Normalisation:
    if taking.type == TensorProto.UINT8:
        if wishes.mean is not None or wishes.std is not None:
            raise ExportError(
                f"--mean and --std are not for the input {taking.name}, which is uint8 and takes the photo's own bytes"
            )
        return _BYTES
    return Normalisation(wishes.mean or IMAGENET_MEAN, wishes.std or IMAGENET_STD)


def _choose_output(graph: onnx.GraphProto, wishes: Wishes) -> onnx.ValueInfoProto:
    names = [value.name for value in graph.output]
    if not names:
        raise ExportError("the core has no output")
    if wishes.output is not None and wishes.output not in names:
        raise ExportError(f"--output-name {wishes.output}: the core has no such output, it has {', '.join(names)}")
    return graph.output[names.index(wishes.output or names[0])]


def _giving(answer: Answer, name: str, taking: Taking, wishes: Wishes) -> Giving:
    channels = wishes.labels or 1
    about = f"the core's output {name}"
    if not np.issubdtype(answer.dtype, np.floating):
        raise ExportError(
            f"{about} is {answer.dtype}: numbers of classes, which have no soft edges; export the network without its"
            " ArgMax, or name another output by --output-name"
        )
    shape = answer.shape
    missing = _missing(shape, taking, size_of(taking, wishes.resize), channels)
    if missing is None:
        raise ExportError(
            f"{about} has the shape {list(shape)}: it must be a map, (N, C, h, w), (N, h, w, C) or (N, h, w)"
        )
    full = np.expand_dims(np.empty(shape, np.bool_), missing).shape
    axes: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
    fitting: list[Layout] = [layout for layout, axis in axes.items() if full[axis] == channels]
    if not fitting:
        raise ExportError(_wrong_channels(name, full[axes[taking.layout]], wishes))
    return Giving(name, missing, taking.layout if taking.layout in fitting else fitting[0])


def _missing(shape: tuple[int, ...], taking: Taking, size: tuple[int, int], channels: int) -> tuple[int, ...] | None:
    """The axes that an output lacks; None if it is no map."""
    batch = 2 if taking.batch is None else 1
    if len(shape) == 4 and shape[0] == batch:
        return ()
    if len(shape) == 3 and shape[0] == batch and channels == 1:
        return (1,)
    if len(shape) == 3 and batch == 1 and channels in (shape[0], shape[2]):
        return (0,)
    if shape == size and batch == 1 and channels == 1:
        return (0, 1)
    return None


def _wrong_channels(name: str, found: int, wishes: Wishes) -> str:
    if wishes.labels is not None:
        mend = "; leave --labels out, it is a saliency network" if found == 1 else ""
        return f"the core's output {name} has {found} channels, but there are {wishes.labels} labels{mend}"
    such = " (such as background,subject)" if found == 2 else ""
    return (
        f"the core's output {name}: a saliency core gives one channel, this one gives {found}: name its classes by"
        f" --labels{such}"
    )


def _say_taking(taking: Taking, normalisation: Normalisation, wishes: Wishes) -> str:
    size = "any size" if taking.height is None else f"{taking.width}x{taking.height}"
    what = f"input {taking.name}: {np.dtype(INPUT_TYPES[taking.type]).name} {taking.layout.upper()}, {size}"
    if normalisation is _BYTES:
        return f"{what}; it gets red, green and blue as they are, 0 to 255"
    mean, std = (",".join(f"{value:.4g}" for value in each) for each in (normalisation.mean, normalisation.std))
    whose = " (ImageNet's, as neither is given)" if wishes.mean is None and wishes.std is None else ""
    return f"{what}; it gets (RGB / 255 - mean) / std, mean {mean}, std {std}{whose}"


def _say_giving(giving: Giving, graph: onnx.GraphProto) -> str:
    names = [value.name for value in graph.output]
    others = [name for name in names if name != giving.name]
    more = f"; not used: {', '.join(others)} (--output-name chooses)" if others else ""
    inside = "; its softmax is inside" if giving.probabilities else ""
    return f"output {giving.name}{inside}{more}"
