"""Finds which form of an artifact is the fastest on this machine, by running them in turns."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from pydantic import TypeAdapter, ValidationError

from mattebox_export.errors import ExportError
from mattebox_export.files import write_whole
from mattebox_server.engine.artifact import Artifact
from mattebox_server.engine.config import EngineConfig, ProviderUnavailable, RunningPrecision
from mattebox_server.engine.inference import run_session
from mattebox_server.engine.opening import ArtifactSession, open_session
from mattebox_server.engine.plan import Device, Plan
from mattebox_server.engine.precisions import precisions_to_try
from mattebox_server.engine.providers import find_device
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.spec import ModelSpec, Resize, ShortSide, Target

_ROUNDS = 5
_WORTH_IT = 0.97  # a later form must take at most so much of an earlier one's time
_FILE = "races.json"


@dataclass(frozen=True)
class Form:
    """One form of an artifact.

    Args:
        artifact: the artifact.
        spec: its description.
        about: what makes it different, in a phrase.
    """

    artifact: onnx.ModelProto
    spec: ModelSpec
    about: str


def fastest(forms: Sequence[Form], target: Target, cache: Path) -> tuple[Form, str]:
    """Chooses the fastest form for a target.

    Forms take the same photo in turns, each in the fastest precision that it may run in, and the least time of each
    counts. The times are kept, because the same forms on the same device would take the same.

    Args:
        forms: the forms; where two take nearly the same time, and where the target's provider isn't on this machine,
            the earlier one is chosen.
        target: target of all of them.
        cache: folder for the times.

    Returns:
        The form, and a line of text about the choice.
    """
    if len(forms) == 1:
        return forms[0], forms[0].about
    try:
        device = find_device(target)
    except ProviderUnavailable as error:
        return forms[0], f"{forms[0].about} (not measured, as this machine can't run it: {error})"
    seconds = _remembered(forms, device, cache)
    chosen = 0
    for index, taken_s in enumerate(seconds):
        if taken_s < _WORTH_IT * seconds[chosen]:
            chosen = index
    others = ", ".join(f"{form.about} {taken_s * 1000:.0f} ms" for form, taken_s in zip(forms, seconds, strict=True))
    return forms[chosen], f"{forms[chosen].about}, as the fastest here: {others}"


def usual_size(resize: Resize) -> tuple[int, int]:
    """Height and width of the network's input for a photo of 4:3, in pixels."""
    if isinstance(resize, ShortSide):
        return resize.short_side_px, resize.short_side_px * 4 // 3
    return resize.height_px, resize.width_px


def open_form(form: Form, device: Device, folder: Path, precision: RunningPrecision | None = None) -> ArtifactSession:
    """Opens a session of a form, whose file is written to a folder; the precision is the fastest unless it is given.

    Raises:
        ProviderUnavailable: the provider can't run it.
    """
    path = folder / f"{hashlib.sha256(form.about.encode()).hexdigest()[:8]}.onnx"
    path.write_bytes(form.artifact.SerializeToString())
    if precision is None:
        precision = precisions_to_try("auto", form.spec, device.provider, device.native)[0]
    return open_session(Plan(Artifact(path, form.spec), device, precision, EngineConfig(threads=_cores())))


def answer(session: ArtifactSession, photo: Pixels) -> Pixels:
    """The foreground uint8 (h, w) of a photo uint8 (h, w, 3) BGR, with every class kept but the background."""
    (found,) = run_session(session, [photo], [session.spec.foreground_classes])
    return found.foreground


def _remembered(forms: Sequence[Form], device: Device, cache: Path) -> list[float]:
    facts = [device.name, dict(device.versions), _cores()]
    digests = [hashlib.sha256(form.artifact.SerializeToString()).hexdigest() for form in forms]
    key = hashlib.sha256(json.dumps([facts, digests], sort_keys=True).encode()).hexdigest()
    try:
        kept = TypeAdapter(dict[str, list[float]]).validate_json((cache / _FILE).read_bytes())
    except (OSError, ValidationError):  # there is none yet, or it is damaged
        kept = {}
    if len(kept.get(key, ())) != len(forms):
        kept[key] = _race(forms, device)
        with contextlib.suppress(ExportError):  # a home that can't be written to: the next export measures again
            write_whole(json.dumps(kept, indent=1).encode(), cache / _FILE)
    return kept[key]


def _race(forms: Sequence[Form], device: Device) -> list[float]:
    """The least seconds of a run of each form."""
    photo = np.zeros((*usual_size(forms[0].spec.resize), 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sessions = [open_form(form, device, Path(folder)) for form in forms]
        for session in sessions:
            answer(session, photo)
        least = [float("inf")] * len(forms)
        for _ in range(_ROUNDS):
            for index, session in enumerate(sessions):
                started_s = time.perf_counter()
                answer(session, photo)
                least[index] = min(least[index], time.perf_counter() - started_s)
    return least


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
