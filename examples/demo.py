"""`make demo`: makes a model, starts the server, removes backgrounds with the SDK, and prints the times."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import mattebox
from mattebox_server import logs
from mattebox_server.errors import StartupError
from mattebox_server.local import LocalServer
from mattebox_server.named import Maker
from mattebox_server.settings import load_settings

FOLDER = Path("demo")
OTHERS = ("deeplabv3_resnet101", "selfie")
CELL = 320  # side of a contact sheet's cell, in pixels
STAGES = [field.name for field in fields(mattebox.Timings)]

Image = NDArray[np.uint8]


def main() -> int:
    """Writes composites and a contact sheet into demo/; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name of a network, as mattebox-server --list-models says")
    parser.add_argument("--photo", type=Path, help="a photo of yours, in addition to the two of scikit-image")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    model = make(arguments.model)
    photos = {"astronaut": to_png(skimage.data.astronaut()), "chelsea": to_png(skimage.data.chelsea())}
    if arguments.photo:
        photos[arguments.photo.stem] = arguments.photo.read_bytes()
    picture = to_png(sunset(640, 480))
    table = Table("photo", "background", "found", "provider", title="milliseconds", box=SIMPLE)
    for stage in STAGES:
        table.add_column(stage, justify="right", no_wrap=True)
    rows: list[list[Image]] = []
    with LocalServer([model]) as server, mattebox.Client(server.address) as client:
        for name, photo in photos.items():
            row = [decode(photo, cv2.IMREAD_COLOR)]
            for title, background in backgrounds(picture).items():
                result = client.remove_background(photo, background=background)
                result.save(FOLDER / f"{name}-{title}.png")
                row.append(decode(result.image))
                table.add_row(name, title, *describe(result))
            rows.append(row)
    Console(width=130).print(table)
    sheet = FOLDER / "contact-sheet.png"
    cv2.imwrite(str(sheet), np.vstack([np.hstack([cell(image) for image in row]) for row in rows]))
    print(f"wrote {len(rows) * 3} composites and {sheet}: photo, on white, on a picture, transparent")
    others = [f"make demo MODEL={name}" for name in OTHERS if name != arguments.model]
    print(f"other networks: {', '.join(others)}; mattebox-server --list-models shows all")
    return 0


def make(name: str) -> Path:
    """Returns the model's file in the cache folder, as `mattebox-server --model NAME` finds or makes it."""
    logs.configure("console", "info")
    try:
        (model,) = Maker(load_settings(["--model", name]).making).files([name])
    except StartupError as error:
        raise SystemExit(f"demo: {error}") from error
    return model


def backgrounds(picture: bytes) -> dict[str, mattebox.Background]:
    """Returns the backgrounds by name."""
    return {
        "white": mattebox.Background.color(255, 255, 255),
        "picture": mattebox.Background.image(picture),
        "transparent": mattebox.Background.transparent(),
    }


def describe(result: mattebox.RemovalResult) -> list[str]:
    """Returns a row of the table: the subjects, the provider and precision, and the milliseconds of each stage."""
    found = ", ".join(f"{subject.label} {subject.coverage:.0%}" for subject in result.subjects) or "nothing"
    times = [f"{getattr(result.timings, stage).total_seconds() * 1000:.0f}" for stage in STAGES]
    return [found, f"{result.execution.provider} {result.execution.precision}", *times]


def to_png(rgb: Image) -> bytes:
    """Returns uint8 (H, W, 3) RGB pixels as a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def decode(file: bytes, mode: int = cv2.IMREAD_UNCHANGED) -> Image:
    """Returns an image file as uint8 (H, W, 3) BGR; transparent pixels become a chequerboard."""
    image = cv2.imdecode(np.frombuffer(file, np.uint8), mode)
    if image is None:
        raise SystemExit("demo: the photo can't be decoded")
    pixels = np.asarray(image, np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    y, x = np.indices(pixels.shape[:2]) // 16
    board = np.where((x + y) % 2, 255, 204)[..., np.newaxis]
    alpha = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * alpha + board * (1 - alpha)).astype(np.uint8)


def cell(image: Image) -> Image:
    """Returns an image fitted into a square of the contact sheet, uint8 (CELL, CELL, 3) BGR."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    square = np.full((CELL, CELL, 3), 255, np.uint8)
    top, left = (CELL - small.shape[0]) // 2, (CELL - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def sunset(width: int, height: int) -> Image:
    """Returns a picture of an evening sky with the sun, uint8 (height, width, 3) RGB."""
    y, x = np.mgrid[0:height, 0:width]
    fraction = (y / height)[..., np.newaxis]
    sky = np.array([38, 34, 92]) * (1 - fraction) + np.array([255, 150, 70]) * fraction
    sun = np.exp(-((x - width * 0.75) ** 2 + (y - height * 0.6) ** 2) / (0.02 * width * height))[..., np.newaxis]
    sea = (y > height * 0.8)[..., np.newaxis]
    scene = np.clip(sky + sun * np.array([120, 110, 60]), 0, 255)
    dusk = scene * np.array([0.4, 0.45, 0.6])
    return np.asarray(np.where(sea, dusk, scene), np.uint8)


if __name__ == "__main__":
    sys.exit(main())
