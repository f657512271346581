"""The second half of `make docs-pictures`: five photos by several networks, for docs/which-network.md.

The networks that come from PyPI are always shown. Others need their files: names and files as arguments become further
columns, and without them the pictures have fewer.
"""

import argparse
import sys
from collections.abc import Sequence

import skimage.data
from pictures import in_a_row, save
from PIL import Image, ImageDraw, ImageFont

import mattebox
from mattebox_server.local import LocalServer

PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket")  # public domain or CC0, as scikit-image says
FROM_PYPI = ("u2netp", "selfie")
GREEN = "#208040"
SIDE_PX = 240  # the longest side of each picture
TITLE_PX = 22


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a picture for each photo and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names and files of further networks")
    models = [*FROM_PYPI, *parser.parse_args(argv).models]
    photos = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOS]
    columns = [[titled(photo, "photo") for photo in photos], *(cut_out(model, photos) for model in models)]
    for name, row in zip(PHOTOS, zip(*columns, strict=True), strict=True):
        save(in_a_row(list(row)), f"networks-{name}")
    return 0


def cut_out(model: str, photos: Sequence[Image.Image]) -> list[Image.Image]:
    """Returns each photo in front of plain green, under the network's name."""
    with LocalServer([model]) as server, mattebox.Client(server.address) as client:
        answers = [client.remove_background(photo, matte="guided", background=GREEN) for photo in photos]
    return [titled(answer.to_pil(), answer.execution.model) for answer in answers]


def titled(picture: Image.Image, title: str) -> Image.Image:
    """Returns the picture in the size in which it is shown, under its title."""
    scale = SIDE_PX / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    page = Image.new("RGB", (size[0], size[1] + TITLE_PX), "white")
    page.paste(picture.resize(size, Image.Resampling.LANCZOS), (0, TITLE_PX))
    ImageDraw.Draw(page).text((0, 0), title, "black", ImageFont.load_default(16))
    return page


if __name__ == "__main__":
    sys.exit(main())
