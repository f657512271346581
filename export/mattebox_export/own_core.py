"""A user's own network as a core: what it takes and gives is read from its file, and from its answer to a photo.

The file is run as it is, by onnxruntime, before anything is built of it. So whatever doesn't fit is said in terms of
the file, and the parity check has the file's own answer to compare with.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from mattebox_export.arguments import default_short_side
from mattebox_export.catalogue import IMAGENET_MEAN, IMAGENET_STD, Activation, Layout, Normalisation, Triple
from mattebox_export.core import Core
from mattebox_export.ends import INPUT_TYPES, Giving, Taking, with_ends
from mattebox_export.errors import ExportError
from mattebox_export.normal_form import is_half, photo_inputs, prepare
from mattebox_export.onnx_file import OnnxFile, read_onnx
from mattebox_export.ordering import drop_dead_nodes
from mattebox_export.parity import normalise
from mattebox_export.verdicts import are_probabilities, check_saliency, check_semantic
from mattebox_server.engine.selfcheck import synthetic_photo
from mattebox_server.spec import Resize, ShortSide

_BYTES = Normalisation((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # values 0 to 255, as they are in the photo
_STRIDE = 32  # of nearly all networks that don't take every size


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
    taking, answer, more = _ask(path, taking, normalisation, output.name, wishes)
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
    reference = _reference(path, taking, giving)
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


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what is wrong with it comes as an exception
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


Answer = NDArray[np.generic]


def _ask(
    path: Path, taking: Taking, normalisation: Normalisation, output: str, wishes: Wishes
) -> tuple[Taking, Answer, tuple[str, ...]]:
    """The file's answer to check photos: what it takes (one photo, if it can't take two), the answer, and notes."""
    try:
        session = _open(path)
    except Exception as error:  # onnxruntime's own types
        raise ExportError(f"ONNX Runtime doesn't load {path}: {_first_line(error)}") from error

    def run(batch: int, height: int, width: int) -> Answer:
        photos = np.stack([synthetic_photo(height, width, seed) for seed in range(batch)])
        return np.asarray(session.run([output], {taking.name: taking.feed(normalise(photos, normalisation))})[0])

    height, width = _size(taking, wishes)
    if taking.batch is None:
        two = _try(run, 2, height, width)
        if not isinstance(two, Exception) and two.shape[:1] == (2,):
            return taking, two, ()
    one = _try(run, 1, height, width)
    if isinstance(one, Exception):
        raise ExportError(_why_not(path, one, taking, run, (height, width))) from one
    if taking.batch == 1:
        return taking, one, ()
    return (
        replace(taking, batch=1),
        one,
        ("batch: fixed at 1, as the core doesn't run two photos at once, although its input says so",),
    )


def _try(run: Callable[[int, int, int], Answer], batch: int, height: int, width: int) -> Answer | Exception:
    try:
        return run(batch, height, width)
    except Exception as error:  # noqa: BLE001 - onnxruntime's own types; the caller says what it means
        return error


def _size(taking: Taking, wishes: Wishes) -> tuple[int, int]:
    if taking.height is not None and taking.width is not None:
        return taking.height, taking.width
    resize = wishes.resize or default_short_side()
    if isinstance(resize, ShortSide):
        return resize.short_side_px, resize.short_side_px * 4 // 3
    return resize.height_px, resize.width_px


def _why_not(
    path: Path,
    error: Exception,
    taking: Taking,
    run: Callable[[int, int, int], Answer],
    size: tuple[int, int],
) -> str:
    """The sentence about a file that doesn't run; many networks of free size take multiples of 32 only."""
    height, width = size
    rounded = [max(1, round(side / _STRIDE)) * _STRIDE for side in size]
    says = f"ONNX Runtime doesn't run {path} on a photo of {width}x{height}"
    if taking.height is None and rounded != [height, width] and not isinstance(_try(run, 1, *rounded), Exception):
        return (
            f"{says}, but on one of {rounded[1]}x{rounded[0]}: give it sides that are multiples of {_STRIDE},"
            " as by --resize stretch:512x512"
        )
    return f"{says}: {_first_line(error)}"


def _giving(answer: Answer, name: str, taking: Taking, wishes: Wishes) -> Giving:
    channels = wishes.labels or 1
    about = f"the core's output {name}"
    if not np.issubdtype(answer.dtype, np.floating):
        raise ExportError(
            f"{about} is {answer.dtype}: numbers of classes, which have no soft edges; export the network without its"
            " ArgMax, or name another output by --output-name"
        )
    shape = answer.shape
    missing = _missing(shape, taking, _size(taking, wishes), channels)
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


def _reference(path: Path, taking: Taking, giving: Giving) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function that runs the unchanged file on one photo at a time; it holds no weights between two runs."""

    def run(photos: NDArray[np.float32]) -> NDArray[np.float32]:
        session = _open(path)
        answers = (session.run([giving.name], {taking.name: taking.feed(photo[np.newaxis])})[0] for photo in photos)
        return np.concatenate([giving.read(np.asarray(answer)) for answer in answers])

    return run


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
