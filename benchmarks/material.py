"""The network that the benchmarks run where none is given."""

from pathlib import Path

from mattebox_export.arguments import parse_arguments
from mattebox_export.artifact import export

CACHE = Path(__file__).parent / ".cache"


def light_model() -> Path:
    """U²-Net-p, exported anew: a file from before may be of another version."""
    return exported("u2netp")


def exported(name: str, *words: str) -> Path:
    """What `mattebox-export` makes of these words, for the CPU provider."""
    CACHE.mkdir(exist_ok=True)
    artifact = CACHE / f"{name}.onnx"
    arguments = parse_arguments([*(words or (name,)), "--target", "cpu", "-o", str(artifact)])
    if arguments is not None:
        list(export(arguments))
    return artifact
