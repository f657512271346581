"""torchvision's DeepLabV3 networks as ONNX cores by torch: with random weights, and as the proof of `skeleton_core`.

No other module imports torch.
"""

# pyright: reportUnknownMemberType=false
# torch's own annotations leave much open.

import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any, TypeGuard, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import segmentation
from torchvision.models.resnet import Bottleneck

from mattebox_export.catalogue import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.wrap import OPSET
from mattebox_server.engine.selfcheck import synthetic_photo

RANDOM = "random"
_RESIDUAL_GAIN = 0.2


class LowResolution(nn.Module):
    """A network without its last upsampling, which is part of the artifact's tail: logits at the backbone's stride."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network.get_submodule("backbone")
        self.classifier = network.get_submodule("classifier")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Computes logits (N, C, h, w) of normalised RGB (N, 3, H, W)."""
        logits: torch.Tensor = self.classifier(self.backbone(image)["out"])
        return logits


def torchvision_core(name: str, weights: str, classes: int, seed: int = 0) -> Core:
    """Builds a network with random or a file's weights, and converts it to ONNX.

    Args:
        name: the network's name in the catalogue.
        weights: "random" or the path of a state dict, with or without the auxiliary head.
        classes: number of classes.
        seed: seed of random weights.

    Raises:
        ExportError: the weights can't be loaded, or are not this network's.
    """
    network = build_network(name, weights, classes, seed)
    digest = state_sha256(network) if weights == RANDOM else _file_sha256(Path(weights))
    normalisation = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
    return Core(_to_onnx(network), normalisation, "none", _reference(network), digest)


def build_network(name: str, weights: str, classes: int, seed: int = 0) -> nn.Module:
    """Builds a network in eager mode: `network(image)["out"]` are logits at the image's size.

    Args:
        name: the network's name in the catalogue.
        weights: "random" or the path of a state dict.
        classes: number of classes.
        seed: seed of random weights.

    Raises:
        ExportError: the weights can't be loaded, or are not this network's.
    """
    torch.manual_seed(seed)
    network: nn.Module = getattr(segmentation, name)(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
    )
    if weights == RANDOM:
        _calibrate(network)
    else:
        _load(network, _file_state(Path(weights)), weights)
    return network.eval()


def _calibrate(network: nn.Module) -> None:
    """Gives a random network the ranges and the numeric stability of a trained one, without which parity means nothing.

    Plain random weights raise activations by orders of magnitude, and amplify float32's rounding to 1e-3 in the logits.
    So residual branches are damped, as after zero-init-residual training (He et al., "Bag of Tricks", 2019, section
    3.1), and the batch norms get their statistics from synthetic photos.
    """
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, _RESIDUAL_GAIN)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # so that the statistics are averages over all batches
    photos = torch.from_numpy(np.stack([synthetic_photo(225, 225, seed) for seed in (0, 1)])).permute(0, 3, 1, 2) / 255
    image = (photos - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        network.train()(image)


def _file_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ExportError(f"there is no weights file {path}") from error
    except Exception as error:  # torch.load raises many types, depending on the file
        raise ExportError(f"{path} is not a torch state dict: {error}") from error
    if isinstance(loaded, dict) and "model" in loaded:  # as torchvision's training script saves it
        loaded = cast(Any, loaded["model"])
    if not _is_state(loaded):
        raise ExportError(f"{path} is not a torch state dict")
    return loaded


def _is_state(value: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    values = list(cast(dict[object, object], value).values()) if isinstance(value, dict) else []
    return bool(values) and all(isinstance(item, torch.Tensor) for item in values)


def _load(network: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
    own = network.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    if missing or surplus or wrong:
        raise ExportError(
            f"{source} does not fit the network: {len(missing)} keys missing {missing[:3]}, {len(surplus)} unknown"
            f" {surplus[:3]}, {len(wrong)} of another shape {wrong[:3]} (fewer or more classes? see --labels)"
        )
    network.load_state_dict(state)


def export_program(network: nn.Module) -> torch.onnx.ONNXProgram:
    """Converts a network to ONNX as it is; its `optimize()` folds batch norms, constants and computations of shapes.

    Raises:
        ExportError: torch's exporter returned no graph.
    """
    # Torch's exporter makes constants of a batch of 1 and of equal sides, so the example has neither.
    example = torch.rand(2, 3, 193, 257)
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside of torch's own exporter
        program = torch.onnx.export(
            LowResolution(network).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(dims,),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
            optimize=False,
        )
    if program is None:
        raise ExportError("torch's exporter returned no graph")
    return program


def _to_onnx(network: nn.Module) -> onnx.ModelProto:
    program = export_program(network)
    program.optimize()
    return program.model_proto


def _reference(network: nn.Module) -> Any:
    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = network(torch.from_numpy(image))["out"].numpy()
        return logits

    return run


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(network: nn.Module) -> str:
    """Digest of all weights and statistics of a network, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
