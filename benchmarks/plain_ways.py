"""Networks as their own tools export them, run by PyTorch, onnxruntime and OpenVINO; nothing of Mattebox is in them."""

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from material import u2netp_file
from numpy.typing import NDArray
from ways import Run, Way

from mattebox_export.catalogue import CATALOGUE
from mattebox_export.named_core import named_core
from mattebox_server.engine.config import ProviderUnavailable
from mattebox_server.engine.providers import runtime_of

FLAGSHIP, LIGHT = "deeplabv3_resnet101", "u2netp"
REFERENCES = {FLAGSHIP: "torchvision eager fp32", LIGHT: "onnxruntime CPU fp32, plain graph"}


def torch_ways(photo: NDArray[np.uint8], arguments: argparse.Namespace) -> Iterator[Way]:
    """The network by torch itself: as it comes, in bf16, compiled."""
    import torch  # noqa: PLC0415 - heavy, and not for every network
    from plain import PlainDeepLab  # noqa: PLC0415

    torch.set_num_threads(arguments.threads)
    network = PlainDeepLab().eval()
    image, keep = torch.tensor(photo), torch.tensor(kept())

    def eager() -> object:
        with torch.inference_mode():
            return network(image, keep)

    yield Way(REFERENCES[FLAGSHIP], eager)
    channels_last = PlainDeepLab().eval().to(memory_format=torch.channels_last)

    def autocast() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return channels_last(image, keep)

    yield Way("torch channels-last bf16 autocast", autocast)
    if arguments.no_compile:
        yield Way("torch.compile fp32", None, "left out by --no-compile")
        return
    compiled: Any = torch.compile(network)

    def inductor() -> object:
        with torch.no_grad():
            return compiled(image, keep)

    yield Way("torch.compile fp32", inductor)


def plain_graph(model: str, cache: Path) -> Path:
    """The network as its own tools export it, nothing of Mattebox in it."""
    path = cache / f"{model}-plain.onnx"
    if not path.exists():
        if model == FLAGSHIP:
            from plain import export_plain  # noqa: PLC0415 - torch

            export_plain(path)
        else:
            file = u2netp_file(Path(tempfile.gettempdir()) / "mattebox-bench")
            core = named_core(CATALOGUE["u2netp"], file)
            path.write_bytes(core.model.SerializeToString())
    return path


def plain_feeds(names: list[str], model: str, photo: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Inputs of the plain graph; U2-Net-p's own file takes a normalised tensor, which is ready here."""
    if model == FLAGSHIP:
        return dict(zip(names, (photo, kept()), strict=True))
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    tensor = ((photo[..., ::-1] / photo.max() - mean) / std).transpose(0, 3, 1, 2)
    return {names[0]: np.ascontiguousarray(tensor, np.float32)}


def kept() -> NDArray[np.float32]:
    """Everything but the background."""
    return np.array([[0] + [1] * 20], np.float32)


def plain_onnxruntime(path: Path, model: str, photo: NDArray[np.uint8], threads: int) -> Run:
    """Its own defaults, but for the threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = plain_feeds([value.name for value in session.get_inputs()], model, photo)
    return lambda: session.run(None, feeds)


def plain_openvino(path: Path, model: str, photo: NDArray[np.uint8], threads: int) -> Iterator[Way]:
    """OpenVINO by its own package, tuned for latency as its documentation says."""
    try:
        runtime_of("openvino")  # first, because this keeps the package from sending usage data
    except ProviderUnavailable as error:
        yield Way("OpenVINO, plain graph", None, str(error))
        return
    import openvino  # noqa: PLC0415 - optional

    core = openvino.Core()
    for precision in ("f32", "bf16"):
        name = f"OpenVINO {precision}, plain graph"
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            yield Way(name, None, "this CPU has no bf16")
            continue
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
        names = [value.any_name for value in request.model_inputs]
        feeds = plain_feeds(names, model, photo)
        yield Way(name, partial(request.infer, feeds))
