"""`make docs-pictures` makes the pictures of the README and of docs/options.md by the real server with U²-Net-p."""

import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

import mattebox
from mattebox_server.local import LocalServer

FOLDER = Path(__file__).parent / "pictures"
WIDTH_PX = 320  # width of every picture that shows a whole photo
GAP_PX = 8  # white space between the pictures of the row that opens the README
IN_THE_README = ("transparent", "picture")  # beside the photo itself
HAIR = (130, 0, 230, 100)  # a detail of the astronaut in pixels: left, top, right, bottom
ZOOM = 3
QUALITY = 82
LEAST_PX, MOST_BYTES = 100, 60_000  # what tests/project/test_docs.py allows, too


@dataclass(frozen=True)
class Shot:
    """A picture that shows what some options do.

    Args:
        name: the file's name without its suffix.
        options: arguments for `remove_background`.
        photo: the name of one of scikit-image's photos.
        detail: whether only the hair is shown, enlarged.
        own_size: whether the answer is shown at its own size.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    photo: Literal["astronaut", "coffee"] = "astronaut"
    detail: bool = False
    own_size: bool = False


def shots(scene: bytes) -> list[Shot]:
    """Lists all pictures; `scene` is the picture file that the astronaut is put in front of."""
    output, matte = mattebox.Output, mattebox.Matte
    green = {"background": "#208040"}
    details = [
        Shot(f"matte-{method}", {**green, "matte": method}, detail=True)
        for method in ("guided", "grabcut", "gaussian", "none")
    ]
    return [
        Shot("white"),
        Shot("orange", {"background": "#ff8800"}),
        Shot("transparent", {"background": "transparent"}),
        Shot("picture", {"background": mattebox.Background.image(scene)}),
        Shot("blur", {"background": mattebox.Background.blur(12)}),
        *details,
        Shot("kernel-1", {**green, "matte": matte("gaussian", blur_kernel=1)}, detail=True),
        Shot("kernel-31", {**green, "matte": matte("gaussian", blur_kernel=31)}, detail=True),
        Shot("edge-kept", {**green, "matte": matte(keep_edge_colors=True)}, detail=True),
        Shot("crop", {"background": "transparent", "output": output(crop=20)}, photo="coffee"),
        Shot("alpha", {"output": output(alpha_only=True)}),
        Shot("size-160", {"output": output(size=160)}, own_size=True),
        Shot("quality-90", {"output": output(format="jpeg", quality=90)}, detail=True),
        Shot("quality-10", {"output": output(format="jpeg", quality=10)}, detail=True),
    ]


def main() -> int:
    """Writes all pictures and returns the exit code."""
    FOLDER.mkdir(exist_ok=True)
    photos = {
        "astronaut": Image.fromarray(skimage.data.astronaut()),
        "coffee": Image.fromarray(skimage.data.coffee()),
    }
    row = [shown(photos["astronaut"])]
    save(row[0], "photo")
    save(detail(photos["astronaut"]), "photo-detail")
    save(shown(photos["coffee"]), "coffee")
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer([exported(Path(folder))]) as server,
        mattebox.Client(server.address) as client,
    ):
        for shot in shots(as_png(sunset(640, 480))):
            answer = on_board(client.remove_background(photos[shot.photo], **shot.options).to_pil())
            picture = detail(answer) if shot.detail else answer if shot.own_size else shown(answer)
            save(picture, shot.name)
            if shot.name in IN_THE_README:
                row.append(picture)
    save(in_a_row(row), "headline")
    return 0


def exported(folder: Path) -> Path:
    """Exports U²-Net-p into the folder and returns the artifact's path. Raises CalledProcessError."""
    artifact = folder / "u2netp.onnx"
    subprocess.run([sys.executable, "-m", "mattebox_export.cli", "u2netp", "-o", str(artifact)], check=True)
    return artifact


def shown(picture: Image.Image) -> Image.Image:
    """Returns the picture at the width at which whole photos are shown."""
    return picture.resize((WIDTH_PX, WIDTH_PX * picture.height // picture.width), Image.Resampling.LANCZOS)


def detail(picture: Image.Image) -> Image.Image:
    """Returns the hair, enlarged so that single pixels are visible."""
    cut = picture.crop(HAIR)
    return cut.resize((cut.width * ZOOM, cut.height * ZOOM), Image.Resampling.NEAREST)


def in_a_row(pictures: list[Image.Image]) -> Image.Image:
    """Puts pictures of one height side by side on white."""
    width = sum(picture.width + GAP_PX for picture in pictures) - GAP_PX
    row, left = Image.new("RGB", (width, pictures[0].height), "white"), 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + GAP_PX
    return row


def on_board(picture: Image.Image) -> Image.Image:
    """Returns the picture with a chequerboard where it is transparent."""
    if picture.mode != "RGBA":
        return picture
    y, x = np.indices((picture.height, picture.width)) // 16
    board = Image.fromarray(np.where((x + y) % 2, 255, 204).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(board, picture)


def save(picture: Image.Image, name: str) -> None:
    """Writes a WebP file. Raises ValueError for a file too large for a page and for a picture too small for one."""
    path = FOLDER / f"{name}.webp"
    picture.convert("RGB").save(path, quality=QUALITY, method=6)
    if path.stat().st_size > MOST_BYTES or min(picture.size) < LEAST_PX:
        raise ValueError(f"{path} is {picture.size} and {path.stat().st_size} bytes")
    print(f"{path.name}: {picture.width}x{picture.height}, {path.stat().st_size} bytes")


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes uint8 (H, W, 3) RGB as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def sunset(width: int, height: int) -> NDArray[np.uint8]:
    """Paints an evening sky over the sea, uint8 (height, width, 3) RGB."""
    y = np.linspace(0, 1, height)[:, np.newaxis, np.newaxis]
    sky = np.array([38, 34, 92]) * (1 - y) + np.array([255, 150, 70]) * y
    scene = np.where(y > 0.8, sky * np.array([0.4, 0.45, 0.6]), sky)
    return np.broadcast_to(np.rint(scene), (height, width, 3)).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
