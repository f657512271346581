"""An export: builds the core, puts head and tail around it, checks the artifact, and only then writes the file."""

import importlib.metadata
import importlib.util
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from pydantic import ValidationError

from mattebox_export.arguments import Arguments
from mattebox_export.cached import downloads
from mattebox_export.catalogue import CATALOGUE, VOC_LABELS
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.fetching import fetch, has_digest
from mattebox_export.files import write_whole
from mattebox_export.forms import forms_for
from mattebox_export.named_core import named_core
from mattebox_export.normal_form import prepare
from mattebox_export.option_values import default_short_side
from mattebox_export.own_core import Wishes, own_core
from mattebox_export.parity import check_parity
from mattebox_export.quantise.choice import Wanted, find_table
from mattebox_export.quantise.graph import name_nodes, quantise
from mattebox_export.quantise.judging import expectation_of
from mattebox_export.quantise.table import CalibrationTable, Int8
from mattebox_export.race import Form, fastest
from mattebox_export.wrap import describe, wrap
from mattebox_server.engine.providers import best_target
from mattebox_server.spec import Kind, ModelSpec, Quantisation, Resize, Stretch, Target, Weights

_SUBJECT = ("subject",)
_UNKNOWN = "unknown"
_TOOLS = ("mattebox", "onnx", "torch", "torchvision", "onnxruntime")


def export(arguments: Arguments) -> Iterator[str]:
    """Exports one network.

    Yields:
        A line of text about each step that is done.

    Raises:
        ExportError: the export can't be done; nothing was written.
    """
    core, weights = yield from _build_core(arguments)
    yield f"built {arguments.name}: weights {weights.source}, sha256 {core.weights_sha256}"
    yield from core.notes
    target = arguments.target or best_target()
    spec = _spec(arguments, core, weights, target)
    core = replace(core, model=name_nodes(prepare(core.model)))
    table = None
    if arguments.precision != "fp16":
        table = yield from find_table(core, spec, Wanted(arguments.precision, arguments.calibration))
    chosen, why = fastest(_forms(arguments, core, spec, table), target, arguments.cache)
    whose = "" if arguments.target else " (the best of this machine; --target chooses another)"
    yield f"form for {target}{whose}: {why}"
    parity = check_parity(wrap(core, spec) if chosen.spec.quantisation else chosen.artifact, core, spec)
    yield str(parity)
    expectation = parity.expectation
    if chosen.spec.quantisation is not None:
        yield f"int8: {chosen.spec.quantisation.fidelity}"
        expectation = expectation_of(chosen.artifact, chosen.spec, expectation)
    describe(chosen.artifact, chosen.spec.model_copy(update={"expectation": expectation}))
    if arguments.save_table is not None and table is not None:
        write_whole(table.model_dump_json(indent=1).encode() + b"\n", arguments.save_table)
        yield f"wrote the calibration table {arguments.save_table}"
    write_whole(chosen.artifact.SerializeToString(), arguments.output)
    yield f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)"


def _forms(arguments: Arguments, core: Core, spec: ModelSpec, table: CalibrationTable | None) -> list[Form]:
    """The forms that the artifact may have; where they can't be measured, the first is the best."""
    forms: list[Form] = []
    if table is not None and arguments.precision != "fp32" and table.int8 is not None:
        forms.append(_int8_form(core, spec, table.int8, table.source))
    if arguments.precision != "int8":
        spec = spec if table is None else spec.model_copy(update={"bf16": table.bf16})
        for model, about in forms_for(core.model, spec.target, spec.precision):
            forms.append(Form(wrap(replace(core, model=model), spec), spec, f"{spec.precision}, {about}"))
    return forms


def _int8_form(core: Core, spec: ModelSpec, int8: Int8, source: str) -> Form:
    quantisation = Quantisation(calibration=source, float_layers=int8.float_layers, fidelity=int8.fidelity)
    spec = spec.model_copy(update={"precision": "int8", "quantisation": quantisation})
    artifact = wrap(replace(core, model=quantise(core.model, int8)), spec)
    return Form(artifact, spec, f"int8, {len(int8.float_layers)} layers in float")


@dataclass(frozen=True)
class _Origin:
    """Where the weights come from, and what is known of them."""

    source: str
    licence: str
    commercial: bool = True
    trained: bool = True


def _build_core(arguments: Arguments) -> Generator[str, None, tuple[Core, _Origin]]:
    if arguments.core is not None:
        core = own_core(arguments.core, _wishes(arguments))
        return core, _Origin(arguments.core.name, arguments.licence or _UNKNOWN)
    entry = CATALOGUE[arguments.model]
    if arguments.weights == "random":
        return _random_core(arguments), _Origin("random, seed 0", entry.licence, trained=False)
    official = _Origin(str(entry.source), entry.licence, entry.commercial)
    if arguments.weights == "official":
        path = yield from fetch(entry.source, downloads(arguments.cache), arguments.elsewhere, arguments.offline)
        return named_core(entry, path), official
    path = Path(arguments.weights)
    core = named_core(entry, path)
    is_official = has_digest(path, entry.source.digest)
    return core, official if is_official else _Origin(path.name, arguments.licence or _UNKNOWN)


def _random_core(arguments: Arguments) -> Core:
    if importlib.util.find_spec("torchvision") is None:
        raise ExportError("--weights random needs torch and torchvision: pip install 'mattebox[export]'")
    from mattebox_export.torchvision_core import RANDOM, torchvision_core  # noqa: PLC0415 - its import takes seconds

    return torchvision_core(arguments.model, RANDOM, len(arguments.labels or VOC_LABELS))


def _wishes(arguments: Arguments) -> Wishes:
    return Wishes(
        mean=arguments.mean,
        std=arguments.std,
        activation=arguments.activation,
        layout=arguments.layout,
        output=arguments.output_name,
        labels=None if arguments.labels is None else len(arguments.labels),
        resize=arguments.resize,
    )


def _spec(arguments: Arguments, core: Core, origin: _Origin, target: Target) -> ModelSpec:
    kind: Kind = "saliency" if _is_saliency(arguments) else "semantic"
    labels = _SUBJECT if kind == "saliency" else arguments.labels or VOC_LABELS
    _check_channels(core.model, kind, len(labels))
    try:
        return ModelSpec(
            name=arguments.name,
            kind=kind,
            labels=labels,
            resize=_resize(arguments, core),
            precision="fp16" if arguments.precision == "fp16" else "fp32",
            target=target,
            weights=Weights(source=origin.source, sha256=core.weights_sha256, trained=origin.trained),
            licence=origin.licence,
            non_commercial=not origin.commercial,
            tools={name: version for name in _TOOLS if (version := _version(name))},
        )
    except ValidationError as error:
        raise ExportError("; ".join(_reason(list(e["loc"]), e["msg"]) for e in error.errors())) from error


def _reason(place: list[int | str], message: str) -> str:
    return ": ".join([*map(str, place), message.removeprefix("Value error, ")])


def _is_saliency(arguments: Arguments) -> bool:
    return arguments.labels is None if arguments.core else CATALOGUE[arguments.model].kind == "saliency"


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
        return arguments.resize or _usual_resize(arguments)
    fixed = Stretch(width_px=width.dim_value, height_px=height.dim_value)
    asked = arguments.resize or fixed
    if asked.policy == "short_side" or (asked.width_px, asked.height_px) != (fixed.width_px, fixed.height_px):
        raise ExportError(f"--resize: the core takes {fixed.width_px}x{fixed.height_px} only, by stretch or letterbox")
    if core.normalisation.by_maximum and asked.policy == "letterbox":
        raise ExportError("--resize: letterbox would change the photo's maximum, by which this network divides")
    return asked


def _usual_resize(arguments: Arguments) -> Resize:
    """How photos get the size of a core that takes any: as the catalogue says, or with a short side of 450 pixels."""
    size = None if arguments.core else CATALOGUE[arguments.model].input_px
    return default_short_side() if size is None else Stretch(width_px=size[0], height_px=size[1])


def _check_channels(model: onnx.ModelProto, kind: Kind, labels: int) -> None:
    dims = list(model.graph.output[0].type.tensor_type.shape.dim) if len(model.graph.output) else []
    expected = labels if kind == "semantic" else 1
    if len(dims) == 4 and dims[1].HasField("dim_value") and dims[1].dim_value != expected:
        raise ExportError(
            f"the core's output has {dims[1].dim_value} channels, but there are {labels} labels"
            if kind == "semantic"
            else f"a saliency core gives one channel, this one gives {dims[1].dim_value}: name its classes by --labels"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
