"""What the network found: labels, how much of the frame they cover, and where."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.rectangle import Rectangle


@dataclass(frozen=True)
class Subject:
    """One class that was found.

    Args:
        label: its name.
        class_index: its index among the model's labels.
        coverage: share of the frame, above 0 and at most 1.
        box: x, y, width, height in output pixels.
    """

    label: str
    class_index: int
    coverage: float
    box: tuple[int, int, int, int]


def find_subjects(
    mask: Pixels, classes: Pixels | None, labels: tuple[str, ...], size: tuple[int, int], frame: Rectangle
) -> tuple[Subject, ...]:
    """Lists the kept classes that the network found, largest coverage first; those outside of the frame are left out.

    Args:
        mask: uint8 (h, w) at the model's resolution, 255 where a kept class is, else 0.
        classes: uint8 (h, w), class of each pixel; None: all of the mask is class 0.
        labels: names of the classes.
        size: width and height in pixels to which the boxes are scaled.
        frame: the part of that which comes back, in whose pixels the boxes are given.
    """
    if classes is None:
        planes = {0: mask} if mask.any() else {}
    else:
        found = np.unique(classes[mask > 0]).tolist()
        planes = {index: np.where(classes == index, mask, 0).astype(np.uint8) for index in found}
    subjects = [
        Subject(labels[index], index, cv2.countNonZero(plane) / plane.size, box)
        for index, plane in planes.items()
        if (box := frame.clip(*_box(plane, size))) is not None
    ]
    return tuple(sorted(subjects, key=lambda subject: -subject.coverage))


def _box(plane: Pixels, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Bounding box of the pixels that are set, scaled outwards to whole pixels."""
    x, y, width, height = cv2.boundingRect(plane)
    scale_x, scale_y = size[0] / plane.shape[1], size[1] / plane.shape[0]
    left, top = math.floor(x * scale_x), math.floor(y * scale_y)
    right = min(size[0], math.ceil((x + width) * scale_x))
    bottom = min(size[1], math.ceil((y + height) * scale_y))
    return left, top, right - left, bottom - top
