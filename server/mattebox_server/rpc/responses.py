"""Turns the domain's answers into the contract's messages. Knows protobuf, not gRPC."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.network import Network
from mattebox_server.matting.subjects import Subject
from mattebox_server.records import Timeline
from mattebox_server.removal.pipeline import Answer
from mattebox_server.request import ImageFormat
from mattebox_server.spec import Letterbox, ModelSpec, ShortSide, Stretch

_LAYOUTS = {1: pb.PIXEL_FORMAT_GRAY8, 3: pb.PIXEL_FORMAT_RGB8, 4: pb.PIXEL_FORMAT_RGBA8}
_MODEL_KINDS = {"semantic": pb.MODEL_KIND_SEMANTIC, "saliency": pb.MODEL_KIND_SALIENCY}


def build_response(answer: Answer, times: Timeline) -> pb.RemoveBackgroundResponse:
    """Makes the message of the answer to one request."""
    composite = answer.composite
    width, height = composite.size
    raw = composite.format is ImageFormat.RAW
    return pb.RemoveBackgroundResponse(
        image=composite.image,
        format=pb.ImageFormat.Value(f"IMAGE_FORMAT_{composite.format.name}"),
        width=width,
        height=height,
        alpha=composite.alpha or b"",
        subjects=[_subject(subject) for subject in composite.subjects],
        execution=_execution(answer.network, answer.batch_size),
        timings=_timings(times),
        pixel_format=_LAYOUTS[composite.channels] if raw else pb.PIXEL_FORMAT_UNSPECIFIED,
    )


def _subject(subject: Subject) -> pb.Subject:
    x, y, width, height = subject.box
    box = pb.BoundingBox(x=x, y=y, width=width, height=height)
    return pb.Subject(label=subject.label, class_index=subject.class_index, coverage=subject.coverage, box=box)


def _execution(network: Network, batch_size: int) -> pb.Execution:
    return pb.Execution(
        model=network.spec.name,
        weights_sha256=network.spec.weights.sha256,
        provider=network.provider,
        precision=network.precision,
        batch_size=batch_size,
        untrained=not network.spec.weights.trained,
    )


def _timings(times: Timeline) -> pb.Timings:
    """The stages by the contract's names; the total also holds what passes between them."""
    last = times[-1]
    begun_s = next(stage.started_s for stage in times if stage.name == "wait")
    single = {name: _duration(times.seconds(name)) for name in ("decode", "preprocess", "infer", "matte", "encode")}
    queue, total = times.seconds("wait", "queue"), last.started_s + last.seconds - begun_s
    return pb.Timings(queue=_duration(queue), total=_duration(total), **single)


def build_models(engine: Engine, limits: pb.Limits) -> pb.ListModelsResponse:
    """Makes the message of the answer to ListModels."""
    networks = engine.networks
    return pb.ListModelsResponse(
        models=[_model(network) for network in networks], default_model=networks[0].spec.name, limits=limits
    )


def _model(network: Network) -> pb.Model:
    spec = network.spec
    quantisation = spec.quantisation
    fidelity = quantisation.fidelity if quantisation else spec.bf16 if network.precision == "bf16" else None
    return pb.Model(
        name=spec.name,
        kind=_MODEL_KINDS[spec.kind],
        labels=spec.labels,
        input=_input_policy(spec),
        precision=network.precision,
        provider=network.provider,
        weights_sha256=spec.weights.sha256,
        untrained=not spec.weights.trained,
        licence=spec.licence,
        fidelity=None if fidelity is None else pb.Fidelity(**fidelity.model_dump()),
        float_layers=quantisation.float_layers if quantisation else (),
        non_commercial=spec.non_commercial,
    )


def _input_policy(spec: ModelSpec) -> pb.InputPolicy:
    match spec.resize:
        case ShortSide(short_side_px=short, max_long_side_px=long):
            return pb.InputPolicy(short_side=pb.ShortSide(short_side_px=short, max_long_side_px=long))
        case Stretch(width_px=width, height_px=height):
            return pb.InputPolicy(stretch=pb.FixedSize(width_px=width, height_px=height))
        case Letterbox(width_px=width, height_px=height):
            return pb.InputPolicy(letterbox=pb.FixedSize(width_px=width, height_px=height))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
