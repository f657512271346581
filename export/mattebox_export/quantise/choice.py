"""Chooses the precision of an artifact: what is known of reduced precisions, and what the gate says of them."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from mattebox_export.core import Core
from mattebox_export.errors import ExportError
from mattebox_export.quantise.calibrate import GateFailed, Task, find_int8, judge_bf16
from mattebox_export.quantise.photos import SKIMAGE, PhotoSet, folder_photos, skimage_photos, synthetic_photos
from mattebox_export.quantise.table import CalibrationTable, packaged_table, read_table
from mattebox_server.spec import ModelSpec

_SKIMAGE_NOTE = (
    "calibrating on scikit-image's photos, which costs quality (U2-Net-p: IoU 0.955 with fp32 in the median instead of"
    " 0.99): give your own by --calibration FOLDER"
)


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Args:
        precision: "auto", "fp32" or "int8".
        calibration: folder of photos, or a calibration table; None means that none is given.
    """

    precision: str
    calibration: Path | None


def find_table(core: Core, spec: ModelSpec, wanted: Wanted) -> Generator[str, None, CalibrationTable | None]:
    """Finds what is known of a network's reduced precisions: by a table that exists, or else by photos.

    Without a table photos are looked at only where they are given or int8 is asked for, but for random weights: these
    are judged in bf16 on drawn photos in a moment.

    Args:
        core: the core, as `prepare` and `name_nodes` return it.
        spec: description of its fp32 artifact.
        wanted: what the user asks for.

    Yields:
        A line of text about each step.

    Returns:
        The table, whose `int8` is None if int8 isn't wanted, fails or is for other targets; None if nothing is known.

    Raises:
        ExportError: the given photos or table can't be used, or int8 is asked for by name and can't be had.
    """
    symmetric = spec.target == "cuda"
    if wanted.calibration is not None and wanted.calibration.is_file():
        table = read_table(wanted.calibration, core.weights_sha256, spec.resize)
    elif wanted.calibration is None and (packaged := packaged_table(spec.name, core.weights_sha256, spec.resize)):
        table = packaged
    else:
        photos = _photos(spec, wanted)
        if photos is None:
            return None
        if photos.source == SKIMAGE:
            yield _SKIMAGE_NOTE
        return (yield from calibrate(Task(core, spec, photos, symmetric), wanted.precision))
    lack = _lack(table, spec, symmetric)
    if lack is None or wanted.precision == "fp32":
        yield f"calibration table of {table.source}"
        return table
    if wanted.precision == "int8":
        raise ExportError(f"the calibration table has {lack}: give photos by --calibration FOLDER")
    yield f"calibration table of {table.source}, which has {lack}"
    return table.model_copy(update={"int8": None})


def _lack(table: CalibrationTable, spec: ModelSpec, symmetric: bool) -> str | None:
    """The reason why a table gives no int8 network, as what it has instead; None if it gives one."""
    if table.int8 is None:
        return "no int8"
    if table.int8.symmetric != symmetric:
        return f"no int8 for {spec.target}"
    if spec.weights.trained and not table.int8.fidelity.passes:
        return f"only an int8 that is too far from fp32: {table.int8.fidelity}"
    return None


def calibrate(task: Task, precision: str) -> Generator[str, None, CalibrationTable]:
    """Makes the table of a network; `precision` is "auto", "fp32" (int8 isn't tried) or "int8" (which must pass)."""
    expected = task.expected()
    bf16 = judge_bf16(task, expected)
    yield f"bf16: {bf16}"
    int8 = None
    if precision == "int8" or (precision == "auto" and task.spec.weights.trained):
        try:
            int8 = yield from find_int8(task, expected)
        except GateFailed as error:
            if precision == "int8":
                raise
            yield f"no int8: {error}"
    return CalibrationTable(
        network=task.spec.name,
        weights_sha256=task.core.weights_sha256,
        resize=task.spec.resize,
        source=task.photos.source,
        int8=int8,
        bf16=bf16,
    )


def _photos(spec: ModelSpec, wanted: Wanted) -> PhotoSet | None:
    if wanted.calibration is not None:
        return folder_photos(wanted.calibration, spec.resize)
    if not spec.weights.trained:
        return synthetic_photos(spec.resize) if wanted.precision == "int8" or spec.target == "openvino" else None
    if wanted.precision != "int8":
        return None
    found = skimage_photos(spec.resize)
    if found is None:
        raise ExportError(
            "int8 needs photos like those that it will see: give a folder of them by --calibration FOLDER"
        )
    return found
