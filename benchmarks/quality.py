"""`make bench-quality DATA=folder`: the errors of each matte method.

The folder holds `voc/images/*.jpg` with `voc/masks/*.png` (class indices, 255 unknown), `alpha/images`, `alpha/alphas`
and `alpha/trimaps` (*.png; 128 unknown), and may hold `models/deeplabv3_mobilenetv2_257.onnx`. Photos with masks are
those of Pascal VOC, photos with mattes those of alphamatting.com. Each method makes the mattes of all photos, from the
answer of each network, and from a coarse map of the true matte, which judges the method without a network. The rows
`map` are the network's probability itself, enlarged bilinearly to the photo, without any method.
"""

import argparse
import json
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
from machine import describe_machine
from material import exported, light_model
from matte_errors import AlphaErrors, MaskScores, Where, alpha_errors, coarse_map, mask_scores
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox_server import logs
from mattebox_server.engine.config import EngineConfig
from mattebox_server.engine.engine import Engine
from mattebox_server.engine.loading import load_engine
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.preprocess import preprocess
from mattebox_server.matting.backdrop import plain
from mattebox_server.matting.blend import composite, restore
from mattebox_server.matting.foreground import Restorer, separate
from mattebox_server.matting.grid import Grid
from mattebox_server.matting.matte import hard_mask, make_matte
from mattebox_server.removal.stages import kept_classes
from mattebox_server.request import MatteMethod, MatteOptions

METHODS = (MatteMethod.NONE, MatteMethod.GAUSSIAN, MatteMethod.GUIDED, MatteMethod.GRABCUT)
MAP = "map"
WAYS = (MAP, *(method.value for method in METHODS))
SIMULATED = "coarse map of the truth"
WHITE, SATURATED = (255, 255, 255), (60, 220, 40)
UNKNOWN = 128
VOID = 255


@dataclass(frozen=True)
class Case:
    """One photo with its true matte.

    Args:
        name: name of the photo.
        photo: photo uint8 (H, W, 3), BGR.
        truth: true alpha uint8 (H, W).
        known: where the truth is certain, bool (H, W).
    """

    name: str
    photo: Pixels
    truth: Pixels
    known: Where


@dataclass(frozen=True)
class Found:
    """The answer of a network: probability of the subject in [0, 255] and mask, 0 or 255, both uint8 (h, w)."""

    probability: Pixels
    mask: Pixels


def main() -> int:
    """Prints the tables and writes the JSON file and the contact sheets; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of photos and truths")
    parser.add_argument(
        "--models", type=Path, nargs="*", help="model files (default: u2netp, and the folder's DeepLabV3)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder for the JSON file and the contact sheets (default: demo)"
    )
    parser.add_argument("--limit", type=int, help="largest number of photos of each kind")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    logs.configure("console", "warning")
    masks, alphas = mask_cases(arguments.data)[: arguments.limit], alpha_cases(arguments.data)[: arguments.limit]
    if not masks and not alphas:
        raise SystemExit(f"bench-quality: no photos in {arguments.data}")
    engine = load_engine(arguments.models or default_models(arguments.data), EngineConfig(provider="cpu"))
    names = [network.spec.name for network in engine.networks]
    rows: list[dict[str, Any]] = []
    for name in names:
        found = [find(engine, name, case.photo) for case in masks]
        rows += [score_masks(name, way, masks, found) for way in WAYS]
    for name in [*names, SIMULATED]:
        found = [simulate(case) if name == SIMULATED else find(engine, name, case.photo) for case in alphas]
        rows += [score_alphas(name, way, alphas, found) for way in WAYS]
    colors = color_errors(alphas, masks)
    write_sheets(arguments.out, engine, names, masks, alphas)
    engine.close()
    show(rows, colors)
    report = {"machine": describe_machine(), "photos": [len(masks), len(alphas)], "rows": rows, "colors": colors}
    (arguments.out / "quality.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


def mask_cases(folder: Path) -> list[Case]:
    """Returns the photos with masks of classes; all classes but the background are the subject."""
    cases: list[Case] = []
    for path in sorted((folder / "voc" / "images").glob("*.jpg")):
        # The masks are palette images, whose indices Pillow returns.
        classes = np.asarray(Image.open(folder / "voc" / "masks" / f"{path.stem}.png"))
        truth = np.where((classes > 0) & (classes < VOID), 255, 0).astype(np.uint8)
        cases.append(Case(path.stem, read(path), truth, classes < VOID))
    return cases


def alpha_cases(folder: Path) -> list[Case]:
    """Returns the photos with true mattes, which are known outside of the trimap's unknown band."""
    cases: list[Case] = []
    for path in sorted((folder / "alpha" / "images").glob("*.png")):
        truth = read(folder / "alpha" / "alphas" / path.name, cv2.IMREAD_GRAYSCALE)
        trimap = read(folder / "alpha" / "trimaps" / path.name, cv2.IMREAD_GRAYSCALE)
        cases.append(Case(path.stem, read(path), truth, trimap != UNKNOWN))
    return cases


def read(path: Path, mode: int = cv2.IMREAD_COLOR) -> Pixels:
    """Returns the pixels of a file; raises SystemExit if it can't be read."""
    pixels = cv2.imread(str(path), mode)
    if pixels is None:
        raise SystemExit(f"bench-quality: {path} can't be read")
    return np.asarray(pixels, np.uint8)


def default_models(folder: Path) -> list[Path]:
    """Returns U²-Net-p, and the small DeepLabV3 of the folder if it is there."""
    core, half = folder / "models" / "deeplabv3_mobilenetv2_257.onnx", "0.5,0.5,0.5"
    if not core.exists():
        return [light_model()]
    words = ("custom", "--core", str(core), "--labels", "voc", "--mean", half, "--std", half, "--name", "deeplab257")
    return [light_model(), exported("deeplab257", *words, "--target", "cpu", "--precision", "fp32")]


def find(engine: Engine, name: str, photo: Pixels) -> Found:
    """Runs a network on a photo."""
    session = engine.network(name).sessions[0]
    spec = session.spec
    kept = kept_classes(spec, ())
    prepared = preprocess(photo, spec.resize)
    keep = np.isin(np.arange(len(spec.labels)), sorted(kept)).astype(np.float32)[np.newaxis]
    answer = session.run(prepared.image[np.newaxis], keep if spec.kind == "semantic" else None)
    probability = prepared.geometry.crop(answer.foreground[0])
    classes = None if answer.classes is None else prepared.geometry.crop(answer.classes[0])
    return Found(probability, hard_mask(probability, classes, kept))


def simulate(case: Case) -> Found:
    """Returns the answer of a network that makes no mistakes at its resolution."""
    probability = coarse_map(case.truth)
    return Found(probability, hard_mask(probability, None, frozenset((0,))))


def mattes(way: str, cases: list[Case], found: list[Found]) -> list[Pixels]:
    """Makes the matte of each photo, uint8 (H, W), by one of the `WAYS`."""
    if way == MAP:
        return [enlarged(each.probability, case.photo) for case, each in zip(cases, found, strict=True)]
    options = MatteOptions(MatteMethod(way), keep_edge_colors=True)
    return [
        make_matte(case.photo, each.probability, each.mask, options).alpha
        for case, each in zip(cases, found, strict=True)
    ]


def enlarged(probability: Pixels, photo: Pixels) -> Pixels:
    """Returns a probability uint8 (h, w) at the size of a photo, interpolated bilinearly: uint8 (H, W)."""
    height, width = photo.shape[:2]
    return np.asarray(cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def score_masks(source: str, way: str, cases: list[Case], found: list[Found]) -> dict[str, Any]:
    """Returns the mean scores of one of the `WAYS` over the photos with masks."""
    pairs = zip(mattes(way, cases, found), cases, strict=True)
    scores = [mask_scores(matte, case.truth > 0, case.known) for matte, case in pairs]
    return {"photos": "masks", "map": source, "method": way, **means(scores)}


def score_alphas(source: str, way: str, cases: list[Case], found: list[Found]) -> dict[str, Any]:
    """Returns the mean errors of one of the `WAYS` over the photos with mattes, in the unknown band and in all."""
    pairs = list(zip(mattes(way, cases, found), cases, strict=True))
    band = [alpha_errors(matte, case.truth, ~case.known) for matte, case in pairs]
    whole = [alpha_errors(matte, case.truth, np.ones_like(case.known)) for matte, case in pairs]
    result = {"photos": "mattes", "map": source, "method": way, **means(band)}
    return {**result, **{f"whole_{name}": value for name, value in means(whole).items()}}


def means(scores: list[MaskScores] | list[AlphaErrors]) -> dict[str, float]:
    """Returns the mean of each field; an empty dictionary for no scores."""
    if not scores:
        return {}
    columns = zip(*map(astuple, scores), strict=True)
    return {name: mean(values) for name, values in zip(asdict(scores[0]), columns, strict=True)}


def color_errors(alphas: list[Case], others: list[Case]) -> dict[str, float]:
    """Returns the mean errors of the edge's colours, in grey levels: kept from the photo, and estimated.

    The photos are composites with a known foreground: the solid colours of each subject, continued to where it is thin,
    over another photo. The error is that of a composite on a new colour, made with the true matte.
    """
    rng = np.random.default_rng(0)
    errors: list[list[float]] = [[], []]
    for number, case in enumerate(alphas):
        height, width = case.truth.shape
        other = (others or alphas)[(5 * number + 7) % len(others or alphas)].photo
        behind = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
        grain = rng.normal(0, 5, case.photo.shape)
        truth = np.clip(
            continued(case.photo, case.truth) + np.where(case.truth[..., np.newaxis] < 250, grain, 0), 0, 255
        )
        weight = case.truth[..., np.newaxis] / 255
        photo = np.round(truth * weight + behind * (1 - weight)).astype(np.uint8)
        estimated, grid = photo.copy(), Grid.over(width, height)
        layers = separate(grid.means(photo), grid.means(case.truth))
        restore(estimated, case.truth, Restorer.of(case.truth, *layers, grid))
        band = (case.truth > 0) & (case.truth < 255)
        for each, colors in zip(errors, (photo, estimated), strict=True):
            each.append(float((np.abs(colors - truth) * weight)[band].mean()))
    if not alphas:
        return {}
    kept, restored = (mean(each) for each in errors)
    return {"kept": kept, "estimated": restored, "ratio": restored / kept}


def continued(photo: Pixels, alpha: Pixels) -> Pixels:
    """Returns the subject's solid colours, continued to the rest of the photo by the mean of the nearest ones."""
    filled, missing = photo.astype(np.float64), alpha < 250
    weight = (~missing).astype(np.float64)
    colors = filled * weight[..., np.newaxis]
    for side in (5, 9, 17, 33, 65, 129, 257, 513):
        share = cv2.blur(weight, (side, side))
        now = missing & (share > 0.02)
        filled[now] = cv2.blur(colors, (side, side))[now] / share[now][:, np.newaxis]
        missing &= ~now
    return np.round(filled).astype(np.uint8)


def write_sheets(folder: Path, engine: Engine, names: list[str], masks: list[Case], alphas: list[Case]) -> None:
    """Writes a picture for each map: photo, true matte, and each method on white and on a saturated colour."""
    folder.mkdir(exist_ok=True)
    for name in [*names, SIMULATED]:
        cases = alphas if name == SIMULATED else [*alphas, *masks[:10]]
        rows = [
            sheet_row(case, simulate(case) if name == SIMULATED else find(engine, name, case.photo)) for case in cases
        ]
        if rows:
            path = folder / f"quality-{name.replace(' ', '-')}.png"
            cv2.imwrite(str(path), np.vstack(rows))
            print(f"wrote {path}")


def sheet_row(case: Case, found: Found) -> Pixels:
    """Returns one row of a contact sheet, uint8 (h, w, 3), BGR."""
    pictures = [case.photo, np.asarray(cv2.cvtColor(case.truth, cv2.COLOR_GRAY2BGR), np.uint8)]
    for method in METHODS:
        matte = make_matte(case.photo, found.probability, found.mask, MatteOptions(method))
        for color in (WHITE, SATURATED):
            picture = case.photo.copy()
            composite(picture, matte.alpha, plain(picture.shape[1], color), matte.restorer)
            pictures.append(picture)
    size = (320, round(320 * case.photo.shape[0] / case.photo.shape[1]))
    return np.hstack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])


def show(rows: list[dict[str, Any]], colors: dict[str, float]) -> None:
    """Prints the tables."""
    tables = {
        "masks": ("iou", "band_iou", "band_accuracy"),
        "mattes": ("sad", "mad", "mse", "grad", "conn", "whole_sad", "whole_mad"),
    }
    console = Console(width=120)
    for kind, columns in tables.items():
        chosen = [row for row in rows if row["photos"] == kind and columns[0] in row]
        table = Table(title=f"photos with {kind}", box=SIMPLE)
        for column in ("map", "method", *columns):
            table.add_column(column, justify="left" if column in ("map", "method") else "right")
        for row in chosen:
            digits = 4 if kind == "masks" else 2
            values = [f"{row[column]:.{digits}f}" for column in columns]
            table.add_row(row["map"], row["method"], *values)
        if chosen:
            console.print(table)
    if colors:
        text = "{kept:.2f} grey levels if kept from the photo, {estimated:.2f} if estimated, ratio {ratio:.2f}"
        console.print("error of the edge's colours: " + text.format(**colors))


if __name__ == "__main__":
    raise SystemExit(main())
