"""torchvision's DeepLabV3 without Mattebox's exporter: the reference network of `make bench-engine`."""

# pyright: reportUnknownMemberType=false
# torch's own annotations leave much open.

import warnings
from pathlib import Path

import torch
from torch import nn

from mattebox_export.catalogue import IMAGENET_MEAN, IMAGENET_STD
from mattebox_export.torchvision_core import RANDOM, build_network

_OPSET = 18


class PlainDeepLab(nn.Module):
    """DeepLabV3-ResNet101 with normalisation, softmax and argmax, written down in plain torch."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = build_network("deeplabv3_resnet101", RANDOM, 21)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the network.

        Args:
            image: photos, uint8 (N, H, W, 3), BGR.
            keep: classes of the subject, float32 (N, 21), 0 or 1.

        Returns:
            Foreground uint8 (N, H, W) in [0, 255], and classes uint8 (N, H, W) in [0, 20].
        """
        rgb = image.permute(0, 3, 1, 2).flip(1).float() / 255
        logits: torch.Tensor = self.network((rgb - self.mean) / self.std)["out"]
        probability = (logits.softmax(1) * keep[:, :, None, None]).sum(1)
        return (probability * 255).round().to(torch.uint8), logits.argmax(1).to(torch.uint8)


def export_plain(path: Path) -> None:
    """Writes the network as ONNX, by torch's own exporter with its defaults."""
    example = torch.zeros(2, 193, 257, 3, dtype=torch.uint8), torch.ones(2, 21)
    batch = torch.export.Dim("batch")
    shapes = {0: batch, 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}, {0: batch}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings about torch's own exporter
        program = torch.onnx.export(
            PlainDeepLab().eval(), example, dynamo=True, dynamic_shapes=shapes, opset_version=_OPSET, verbose=False
        )
    if program is None:
        raise RuntimeError("torch's exporter returned no model")
    path.write_bytes(program.model_proto.SerializeToString())
