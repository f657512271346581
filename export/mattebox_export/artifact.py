"""An export: builds the core, puts head and tail around it, checks the artifact, and only then writes the file."""

import contextlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from pydantic import ValidationError

from mattebox_export.arguments import Arguments, default_short_side
from mattebox_export.catalogue import CATALOGUE, VOC_LABELS
from mattebox_export.core import Core, Normalisation
from mattebox_export.errors import ExportError
from mattebox_export.forms import bring_to_form
from mattebox_export.onnx_core import file_core, u2netp_core
from mattebox_export.parity import check_parity
from mattebox_export.wrap import describe, prepare, wrap
from mattebox_server.engine.providers import best_target
from mattebox_server.spec import Kind, ModelSpec, Resize, Stretch, Target, Weights

_SUBJECT = ("subject",)
_TOOLS = ("mattebox", "onnx", "torch", "torchvision", "onnxruntime")


def export(arguments: Arguments) -> Iterator[str]:
    """Exports one network.

    Yields:
        A line of text about each step that is done.

    Raises:
        ExportError: the export can't be done; nothing was written.
    """
    core = _build_core(arguments)
    yield f"built {arguments.name}: weights {_source(arguments)}, sha256 {core.weights_sha256}"
    target = arguments.target or best_target()
    spec = _spec(arguments, core, target)
    model, form = bring_to_form(prepare(core.model), target, arguments.precision)
    whose = "" if arguments.target else " (the best of this machine; --target chooses another)"
    yield f"form for {target}{whose}, {arguments.precision}: {form}"
    artifact = wrap(replace(core, model=model), spec)
    parity = check_parity(artifact, core, spec)
    yield str(parity)
    describe(artifact, spec.model_copy(update={"expectation": parity.expectation}))
    _write(artifact, arguments.output)
    yield f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)"


def _build_core(arguments: Arguments) -> Core:
    if arguments.core is not None:
        return file_core(arguments.core, Normalisation(arguments.mean, arguments.std), arguments.activation)
    if CATALOGUE[arguments.model].source == "pypi":
        return u2netp_core(arguments.cache)
    if importlib.util.find_spec("torchvision") is None:
        raise ExportError(f"{arguments.model} needs torch and torchvision: pip install 'mattebox[export]'")
    from mattebox_export.torchvision_core import torchvision_core  # noqa: PLC0415 - its import takes seconds

    return torchvision_core(arguments.model, arguments.weights, len(arguments.labels or VOC_LABELS))


def _spec(arguments: Arguments, core: Core, target: Target) -> ModelSpec:
    kind: Kind = "saliency" if _is_saliency(arguments) else "semantic"
    labels = _SUBJECT if kind == "saliency" else arguments.labels or VOC_LABELS
    _check_channels(core.model, kind, len(labels))
    try:
        return ModelSpec(
            name=arguments.name,
            kind=kind,
            labels=labels,
            resize=_resize(arguments, core),
            precision=arguments.precision,
            target=target,
            weights=Weights(
                source=_source(arguments), sha256=core.weights_sha256, trained=arguments.weights != "random"
            ),
            licence=_licence(arguments),
            tools={name: version for name in _TOOLS if (version := _version(name))},
        )
    except ValidationError as error:
        raise ExportError("; ".join(_reason(list(e["loc"]), e["msg"]) for e in error.errors())) from error


def _reason(place: list[int | str], message: str) -> str:
    return ": ".join([*map(str, place), message.removeprefix("Value error, ")])


def _is_saliency(arguments: Arguments) -> bool:
    return arguments.labels is None if arguments.core else CATALOGUE[arguments.model].kind == "saliency"


def _source(arguments: Arguments) -> str:
    if arguments.core is not None:
        return arguments.core.name
    entry = CATALOGUE[arguments.model]
    if entry.source == "pypi":
        return entry.weights
    match arguments.weights:
        case "official":
            return entry.weights
        case "random":
            return "random, seed 0"
        case file:
            return Path(file).name


def _licence(arguments: Arguments) -> str:
    if arguments.licence is not None:
        return arguments.licence
    own = arguments.core is not None or arguments.weights not in ("official", "random")
    return "unknown" if own else CATALOGUE[arguments.model].licence


def _resize(arguments: Arguments, core: Core) -> Resize:
    """How photos get the network's size: as asked for; else by the core's fixed size; else by the default.

    Raises:
        ExportError: the core doesn't take what was asked for.
    """
    model = core.model
    dims = list(model.graph.input[0].type.tensor_type.shape.dim) if len(model.graph.input) else []
    if len(dims) != 4:
        raise ExportError(f"the core's input must be float32 (N, 3, H, W), it has {len(dims)} dimensions")
    height, width = dims[2:4]
    if not (height.HasField("dim_value") and width.HasField("dim_value")):
        return arguments.resize or default_short_side()
    fixed = Stretch(width_px=width.dim_value, height_px=height.dim_value)
    asked = arguments.resize or fixed
    if asked.policy == "short_side" or (asked.width_px, asked.height_px) != (fixed.width_px, fixed.height_px):
        raise ExportError(f"--resize: the core takes {fixed.width_px}x{fixed.height_px} only, by stretch or letterbox")
    if core.normalisation.by_maximum and asked.policy == "letterbox":
        raise ExportError("--resize: letterbox would change the photo's maximum, by which this network divides")
    return asked


def _check_channels(model: onnx.ModelProto, kind: Kind, labels: int) -> None:
    dims = list(model.graph.output[0].type.tensor_type.shape.dim) if len(model.graph.output) else []
    expected = labels if kind == "semantic" else 1
    if len(dims) == 4 and dims[1].HasField("dim_value") and dims[1].dim_value != expected:
        raise ExportError(
            f"the core's output has {dims[1].dim_value} channels, but there are {labels} labels"
            if kind == "semantic"
            else f"a saliency core gives one channel, this one gives {dims[1].dim_value}: name its classes by --labels"
        )


def _write(artifact: onnx.ModelProto, path: Path) -> None:
    """Writes the artifact under another name and renames it, so that nobody finds half of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(artifact.SerializeToString())
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ExportError(f"can't write {path}: {error.strerror}") from error


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
