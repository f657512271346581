"""The photos that the load generator sends, in an order that a seed fixes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

_QUALITY = 90
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Percentage of the photos of each size in megapixels: sizes of the web are common, those of a camera are rare.
_MIX = {0.3: 40, 1.0: 35, 4.0: 20, 12.0: 5}


@dataclass(frozen=True)
class Photos:
    """Files to send.

    Args:
        name: name in the report.
        files: the files.
        weights: how often each file is sent, relative to the others.
    """

    name: str
    files: tuple[bytes, ...]
    weights: tuple[float, ...]

    def in_order(self, seed: int) -> Iterator[bytes]:
        """Yields files without an end, in an order that depends on the seed alone."""
        numbers = random.Random(seed)
        while True:
            yield from numbers.choices(self.files, self.weights, k=100)


def one_photo() -> Photos:
    """Returns one photo of 1000x667 px, so that the work of every call is the same."""
    return Photos("one JPEG of 1000x667", (_encode(_scaled(skimage.data.astronaut(), 1000, 1000)[:667]),), (1,))


def mixed_photos() -> Photos:
    """Returns three photos at four sizes: 40 % have 0.3 megapixels, 35 % have 1, 20 % have 4 and 5 % have 12."""
    files: list[bytes] = []
    weights: list[float] = []
    for photo in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()):
        height, width = photo.shape[:2]
        for megapixels, weight in _MIX.items():
            factor = (megapixels * 1e6 / (height * width)) ** 0.5
            files.append(_encode(_scaled(photo, round(width * factor), round(height * factor))))
            weights.append(weight)
    return Photos("JPEGs of 0.3, 1, 4 and 12 megapixels, 40:35:20:5", tuple(files), tuple(weights))


def photos_in(folder: Path) -> Photos:
    """Returns the JPEG, PNG and WebP files of a folder and of its subfolders, with equal weights.

    Raises:
        SystemExit: there is no such file.
    """
    files = tuple(path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise SystemExit(f"load: no JPEG, PNG or WebP files in --data {folder}")
    return Photos(f"{len(files)} files of {folder.name}", files, (1.0,) * len(files))


def _scaled(rgb: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Resizes an RGB image uint8 (h, w, 3) to uint8 (height, width, 3)."""
    return np.asarray(cv2.resize(rgb, (width_px, height_px), interpolation=cv2.INTER_CUBIC), np.uint8)


def _encode(rgb: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
