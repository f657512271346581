"""The command line of `mattebox-export`: its options, their checks and their defaults."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mattebox_export.catalogue import (
    VOC_LABELS,
    Activation,
    Entry,
    Layout,
    Triple,
    find_entry,
    require_accepted,
)
from mattebox_export.option_values import parse_labels, parse_resize, parse_triple
from mattebox_server.spec import Resize, Target

CUSTOM = "custom"
AskedPrecision = Literal["auto", "fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Arguments:
    """A command line that is parsed and checked.

    Args:
        model: name in the catalogue, or "custom".
        weights: "official", "random" or the path of a file: a state dict of torchvision's networks, else the network.
        target: execution provider to export for; None means the best of this machine.
        precision: precision of the core; auto means int8 if that is known to pass the gate, else fp32.
        calibration: folder of photos or calibration table, by which reduced precisions are judged; None means those
            that the package has.
        save_table: file to write the calibration table to; None means that it isn't kept.
        output: file to write.
        resize: how photos get the network's size; None means the network's own size, or the default.
        labels: class names; None means Pascal VOC's, or a saliency network if the model is custom.
        core: file of a custom network.
        mean: mean that is subtracted from a custom network's input; None means that its input decides.
        std: standard deviation by which a custom network's input is divided; None means that its input decides.
        activation: function that turns a custom saliency network's values into probabilities; None means none, if its
            values are probabilities.
        layout: order of the dimensions of a custom network's input; None means that they show it.
        output_name: the output of a custom network that is used; None means the first.
        name: the model's name on the server.
        licence: licence of the weights; None means the catalogue's, or "unknown".
        cache: folder of downloads and of measured times.
        offline: whether nothing may be downloaded.
        elsewhere: files that torchvision or rembg may have downloaded before.
    """

    model: str
    weights: str
    target: Target | None
    precision: AskedPrecision
    calibration: Path | None
    save_table: Path | None
    output: Path
    resize: Resize | None
    labels: tuple[str, ...] | None
    core: Path | None
    mean: Triple | None
    std: Triple | None
    activation: Activation | None
    layout: Layout | None
    output_name: str | None
    name: str
    licence: str | None
    cache: Path
    offline: bool
    elsewhere: tuple[Path, ...]


def parse_arguments(argv: Sequence[str]) -> Arguments | Path:
    """Parses a command line.

    Returns:
        The arguments; or the cache folder, if the command line asks for the list of networks.

    Raises:
        SystemExit: the command line is wrong (exit code 2), or asks for --help (0).
    """
    parser = _parser()
    namespace = parser.parse_args(argv)
    try:
        if namespace.list:
            return _cache_folder(namespace)
        if namespace.model is None:
            parser.error("which MODEL? mattebox-export --list shows all")
        return _check(namespace)
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mattebox-export",
        description="Exports a segmentation network as a model file for mattebox-server, once both give the same maps.",
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a network from --list, or custom")
    add("--list", action="store_true", help="list the networks with their licences and sizes")
    add("--weights", metavar="official|random|FILE", help="FILE: a state dict, or a whole network (default: official)")
    add("--target", choices=get_args(Target), help="execution provider to export for (default: this machine's best)")
    add(
        "--precision",
        default="auto",
        choices=get_args(AskedPrecision),
        help="auto is int8 if a calibration table or photos show that it keeps the quality, else fp32 (default: auto)",
    )
    add("--calibration", type=Path, metavar="FOLDER|TABLE", help="photos like those to come, or what they once gave")
    add("--save-table", type=Path, metavar="FILE", help="also write what the photos of --calibration gave")
    add("-o", "--output", type=Path, metavar="FILE", help="file to write (default: NAME.onnx or NAME.mattebox.onnx)")
    add("--resize", metavar="POLICY", help="input size: short_side:450, stretch:320x320 or letterbox:512x512 (WxH)")
    add("--labels", metavar="voc|A,B,C|FILE", help="class names, one of them background; a saliency network has none")
    add("--offline", action="store_true", help="download nothing")
    add(
        "--accept-licence",
        action="append",
        default=[],
        metavar="MODEL",
        help="you accept this network's licence, which forbids commercial use",
    )
    add("--cache-dir", type=Path, metavar="FOLDER", help="folder for downloads (default: mattebox in the user's cache)")
    custom = parser.add_argument_group("your own network (MODEL is custom)").add_argument
    custom(
        "--core",
        type=Path,
        metavar="FILE",
        help="ONNX: RGB (N, 3, H, W) or (N, H, W, 3) to logits, or to a saliency map",
    )
    custom("--mean", metavar="R,G,B", help="mean of its input, of values in [0, 1] (default: ImageNet's)")
    custom("--std", metavar="R,G,B", help="standard deviation of its input; 1/255,1/255,1/255 leaves 0 to 255")
    custom("--activation", choices=get_args(Activation), help="turns saliency into probabilities (default: none)")
    custom("--layout", choices=get_args(Layout), help="order of its input's dimensions (default: they show it)")
    custom("--output-name", metavar="NAME", help="the output that is used (default: the first)")
    custom("--name", help="name of the model on the server (default: the name of the core's file)")
    custom("--licence", help="licence of the weights, for --weights FILE too (default: unknown)")
    return parser


def _check(namespace: argparse.Namespace) -> Arguments:
    """Checks the options and fills in the defaults.

    Raises:
        ValueError: options contradict each other, or can't be parsed.
    """
    custom = namespace.model == CUSTOM
    entry = None if custom else find_entry(namespace.model)
    for option in ("core", "mean", "std", "activation", "layout", "output_name", "name"):
        if not custom and getattr(namespace, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} is for custom only")
    if custom and namespace.core is None:
        raise ValueError("custom needs --core FILE")
    if namespace.weights is not None and entry is None:
        raise ValueError("--weights is not for custom, whose weights are in its ONNX file")
    if entry is not None:
        _check_named(namespace, entry)
    if namespace.activation is not None and namespace.labels is not None:
        raise ValueError("--activation is for saliency networks, which have no --labels")
    weights = namespace.weights or "official"
    if namespace.licence is not None and not custom and weights in ("official", "random"):
        raise ValueError("--licence is for custom and --weights FILE: the other licences are known")
    _check_precision(namespace)
    name = namespace.name or (namespace.core.stem if custom else namespace.model)
    labels = None if namespace.labels is None else parse_labels(namespace.labels)
    if labels is not None and weights == "official" and not custom and labels != VOC_LABELS:
        raise ValueError("the official weights have the Pascal VOC labels: use --labels with --weights FILE or random")
    return Arguments(
        namespace.model,
        weights,
        namespace.target,
        namespace.precision,
        namespace.calibration,
        namespace.save_table,
        _output(namespace, name),
        None if namespace.resize is None else parse_resize(namespace.resize),
        labels,
        namespace.core,
        None if namespace.mean is None else parse_triple(namespace.mean, "--mean"),
        None if namespace.std is None else parse_triple(namespace.std, "--std"),
        namespace.activation,
        namespace.layout,
        namespace.output_name,
        name,
        namespace.licence,
        _cache_folder(namespace),
        namespace.offline,
        () if entry is None else _elsewhere(entry),
    )


def _check_named(namespace: argparse.Namespace, entry: Entry) -> None:
    """Checks the options that are about a network of the catalogue.

    Raises:
        ValueError: they contradict each other or the catalogue.
    """
    if namespace.labels is not None and entry.kind == "saliency":
        raise ValueError(f"--labels is not for {entry.name}, which has no classes")
    if namespace.weights == "random" and entry.form != "torchvision":
        raise ValueError(f"--weights random is not for {entry.name}, whose graph comes with its weights")
    require_accepted(entry, namespace.accept_licence)


def _cache_folder(namespace: argparse.Namespace) -> Path:
    try:
        return namespace.cache_dir or _user_cache() / "mattebox"
    except RuntimeError as error:
        raise ValueError("--cache-dir: there is no home folder for the default, so that it must be given") from error


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _elsewhere(entry: Entry) -> tuple[Path, ...]:
    """The files that torch.hub and rembg download a network's weights to."""
    try:
        torch_hub = Path(os.environ.get("TORCH_HOME") or _user_cache() / "torch") / "hub" / "checkpoints"
        rembg = Path(os.environ.get("U2NET_HOME") or Path.home() / ".u2net")
    except RuntimeError:  # a user without a home, as in a container
        return ()
    return torch_hub / entry.source.file, rembg / f"{entry.name}.onnx"


def _check_precision(namespace: argparse.Namespace) -> None:
    """Checks the options that are about the precision.

    Raises:
        ValueError: they contradict each other.
    """
    if namespace.precision == "fp16" and namespace.target != "cuda":
        raise ValueError("--precision fp16 needs --target cuda: CPUs would compute in fp32")
    if namespace.calibration is not None and namespace.precision == "fp16":
        raise ValueError("--calibration is not for fp16, which needs none")
    if namespace.save_table is not None and (namespace.calibration is None or not namespace.calibration.is_dir()):
        raise ValueError("--save-table needs --calibration FOLDER")


def _output(namespace: argparse.Namespace, name: str) -> Path:
    """The file to write.

    Raises:
        ValueError: its name is empty, or it is the file of the core.
    """
    if namespace.output == Path():
        raise ValueError("-o: is empty, must be the name of a file")
    if namespace.core is None:
        return namespace.output or Path(f"{name}.onnx")
    output: Path = namespace.output or Path(f"{name}.mattebox.onnx")
    if output.resolve() == namespace.core.resolve():
        raise ValueError(f"-o {output} would overwrite the core")
    return output
