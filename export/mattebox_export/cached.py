"""The artifacts that the cache folder holds: those of networks which a server was asked for by name.

This module imports nothing heavy, because every start of a server looks for its artifacts here.
"""

import hashlib
import json
from dataclasses import asdict
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from mattebox_export.catalogue import Entry
from mattebox_server.engine.processor import instruction_sets


def artifact_path(cache: Path, entry: Entry, target: str, precision: str) -> Path:
    """The place of a network's artifact.

    The name holds a digest of all that the artifact depends on, so that an artifact which another version of Mattebox
    made, or which was made for another processor, isn't taken.

    Args:
        cache: the cache folder.
        entry: the network.
        target: execution provider that the artifact is for.
        precision: precision that was asked for, which may be `auto`.
    """
    facts = [asdict(entry), target, precision, _onnx_version(), instruction_sets(), _exporter_sha256()]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return _models(cache) / f"{entry.name}-{target}-{precision}-{key}.onnx"


def downloads(cache: Path) -> Path:
    """The folder of downloaded weights."""
    return cache / "downloads"


def state(cache: Path | None, entry: Entry) -> str:
    """What the cache folder holds of a network: `ready` for an artifact, `downloaded` for weights, else nothing."""
    if cache is None:
        return ""
    if any(_models(cache).glob(f"{entry.name}-*.onnx")):
        return "ready"
    return "downloaded" if (downloads(cache) / entry.source.file).is_file() else ""


def _models(cache: Path) -> Path:
    return cache / "models"


def _onnx_version() -> str:
    try:
        return metadata.version("onnx")
    except metadata.PackageNotFoundError:  # which the exporter says if it has to make something
        return ""


def _exporter_sha256() -> str:
    """Digest of the exporter's own files, on which every artifact depends."""
    digest = hashlib.sha256()
    for file in sorted(_files(resources.files("mattebox_export")), key=str):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(folder: Traversable) -> list[Traversable]:
    found: list[Traversable] = []
    for each in folder.iterdir():
        if each.name != "__pycache__":
            found += _files(each) if each.is_dir() else [each]
    return found
