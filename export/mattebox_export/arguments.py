"""The command line of `mattebox-export`: its options, and what they mean together."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mattebox_export.catalogue import CATALOGUE, VOC_LABELS
from mattebox_export.options import Activation, Triple
from mattebox_server.spec import MAX_LABELS, Letterbox, Precision, Resize, ShortSide, Stretch, Target

CUSTOM = "custom"
_MAX_ASPECT = 4  # short_side: a photo longer than 4:1 gets a smaller short side instead of an ever larger input
_DEFAULT_SHORT_SIDE_PX = 450  # of the reference recipe
_MIN_STD, _MAX_STD = 1e-3, 10
_IMAGENET = "0.485,0.456,0.406", "0.229,0.224,0.225"


@dataclass(frozen=True)
class Arguments:
    """The command line, parsed."""

    model: str
    weights: str
    target: Target | None
    precision: Precision
    output: Path
    resize: Resize | None
    labels: tuple[str, ...] | None
    core: Path | None
    mean: Triple
    std: Triple
    activation: Activation
    name: str
    licence: str | None
    cache: Path


def parse_arguments(argv: Sequence[str]) -> Arguments | None:
    """Parses a command line; None asks for the catalogue. Exits with 2 if it is wrong, with 0 after --help."""
    parser = _parser()
    namespace = parser.parse_args(argv)
    if namespace.list:
        return None
    if namespace.model is None:
        parser.error("which MODEL? See --list")
    try:
        return _check(namespace)
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mattebox-export",
        description="Turns a segmentation network into a verified, self-describing model.onnx for mattebox-server.",
    )
    add = parser.add_argument
    add("model", nargs="?", choices=[*CATALOGUE, CUSTOM], metavar="MODEL", help="a name from --list, or custom")
    add("--list", action="store_true", help="show the networks with licence and size")
    add("--weights", default=None, metavar="official|random|FILE", help="default: official; FILE is a torch state dict")
    add("--target", choices=get_args(Target), help="provider to export for (default: this machine's best)")
    add("--precision", default="fp32", choices=get_args(Precision), help="fp16 is for --target cuda (default: fp32)")
    add("-o", "--output", type=Path, metavar="FILE", help="default: NAME.onnx here; custom: NAME.mattebox.onnx")
    add("--resize", metavar="POLICY", help="short_side:450, stretch:320x320 or letterbox:512x512 (width x height)")
    add("--labels", metavar="voc|A,B,C|FILE", help="class names; one must be 'background'. custom: none = saliency")
    add("--core", type=Path, metavar="FILE", help="custom: the network, float32 RGB (N, 3, H, W) in, logits or map out")
    add("--mean", metavar="R,G,B", help="custom: subtracted from values in [0, 1] (default: ImageNet's)")
    add("--std", metavar="R,G,B", help="custom: divides after that (default: ImageNet's)")
    add("--activation", choices=get_args(Activation), help="custom saliency: what makes probabilities (default: none)")
    add("--name", help="custom: name of the model on the server (default: the core's file name)")
    add("--licence", help="custom, or --weights FILE: licence of the weights")
    return parser


def _check(namespace: argparse.Namespace) -> Arguments:
    """Raises ValueError for options that contradict each other or don't parse."""
    custom = namespace.model == CUSTOM
    for option in ("core", "mean", "std", "activation", "name"):
        if not custom and getattr(namespace, option) is not None:
            raise ValueError(f"--{option} is for custom only")
    if custom and namespace.core is None:
        raise ValueError("custom needs --core FILE")
    if namespace.weights is not None and (custom or namespace.model == "u2netp"):
        raise ValueError(f"--weights is not for {namespace.model}, whose weights are in its ONNX file")
    if namespace.labels is not None and namespace.model == "u2netp":
        raise ValueError("--labels is not for u2netp, which knows no classes")
    if namespace.activation is not None and namespace.labels is not None:
        raise ValueError("--activation is for saliency networks, which have no --labels")
    weights = namespace.weights or "official"
    if namespace.licence is not None and not custom and weights in ("official", "random"):
        raise ValueError("--licence is for custom and for --weights FILE: the catalogue knows the others")
    if namespace.precision == "fp16" and namespace.target != "cuda":
        raise ValueError("--precision fp16 is for --target cuda: CPUs would compute it in fp32")
    name = namespace.name or (namespace.core.stem if custom else namespace.model)
    labels = None if namespace.labels is None else parse_labels(namespace.labels)
    if labels is not None and weights == "official" and not custom and labels != VOC_LABELS:
        raise ValueError("the official weights know the Pascal VOC labels, no others")
    return Arguments(
        namespace.model,
        weights,
        namespace.target,
        namespace.precision,
        _output(namespace, name),
        None if namespace.resize is None else parse_resize(namespace.resize),
        labels,
        namespace.core,
        parse_triple(namespace.mean or _IMAGENET[0], "--mean"),
        parse_triple(namespace.std or _IMAGENET[1], "--std"),
        namespace.activation or "none",
        name,
        namespace.licence,
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mattebox",
    )


def _output(namespace: argparse.Namespace, name: str) -> Path:
    """Where the artifact goes: never over the core that it is made of. Raises ValueError."""
    if namespace.output == Path():
        raise ValueError("-o: is empty")
    if namespace.core is None:
        return namespace.output or Path(f"{name}.onnx")
    output: Path = namespace.output or Path(f"{name}.mattebox.onnx")
    if output.resolve() == namespace.core.resolve():
        raise ValueError(f"-o {output} would overwrite the core")
    return output


def parse_resize(text: str) -> Resize:
    """Raises ValueError unless it is like short_side:450, stretch:320x320 or letterbox:512x512."""
    policy, _, size = text.partition(":")
    width, _, height = size.partition("x")
    try:
        if policy == "short_side":
            return ShortSide(short_side_px=int(size), max_long_side_px=_MAX_ASPECT * int(size))
        if policy == "stretch":
            return Stretch(width_px=int(width), height_px=int(height))
        if policy == "letterbox":
            return Letterbox(width_px=int(width), height_px=int(height))
        raise ValueError(policy)
    except ValueError as error:
        raise ValueError(
            f"--resize {text}: must be like short_side:450, stretch:320x320 or letterbox:512x512"
        ) from error


def default_short_side() -> Resize:
    """The reference recipe's."""
    return parse_resize(f"short_side:{_DEFAULT_SHORT_SIDE_PX}")


def parse_labels(text: str) -> tuple[str, ...]:
    """`voc`, names with commas, or a file with a name a line. Raises ValueError."""
    if text == "voc":
        return VOC_LABELS
    try:
        names = text.split(",") if "," in text else Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels {text}: no such list, and no such file: {error}") from error
    labels = tuple(name.strip() for name in names if name.strip())
    if not 2 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"--labels: {len(labels)} names, must be 2 to {MAX_LABELS}")
    return labels


def parse_triple(text: str, option: str) -> Triple:
    """Raises ValueError unless it is three numbers with commas."""
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} {text}: must be three numbers, R,G,B") from error
    if option == "--std" and not all(_MIN_STD <= value <= _MAX_STD for value in (red, green, blue)):
        raise ValueError(f"--std {text}: must be {_MIN_STD} to {_MAX_STD}, of values in [0, 1]: divide by 255")
    if option == "--mean" and not all(-1 <= value <= 1 for value in (red, green, blue)):
        raise ValueError(f"--mean {text}: must be -1 to 1, of values in [0, 1]: divide by 255")
    return red, green, blue
