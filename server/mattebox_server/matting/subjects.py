"""Lists the subjects that a network found: their labels, boxes and shares of the frame."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.rectangle import Rectangle


@dataclass(frozen=True)
class Subject:
    """A class that the network found."""

    label: str
    class_index: int  # among the model's labels
    coverage: float  # the share of the whole frame that the class covers, above 0 and at most 1
    box: tuple[int, int, int, int]  # x, y, width and height of the bounding box in pixels of the output


def find_subjects(
    mask: Pixels, classes: Pixels | None, labels: tuple[str, ...], size: tuple[int, int], frame: Rectangle
) -> tuple[Subject, ...]:
    """Lists the kept classes that the network found, from the largest coverage to the smallest.

    Args:
        mask: the `hard_mask` at the network's resolution, uint8 (h, w).
        classes: the class of each pixel, uint8 (h, w); None if all of the mask is class 0.
        labels: the names of the classes.
        size: the width and height in pixels of the output before it is cropped.
        frame: the part of the output after the crop. The boxes are relative to it; classes outside of it are left out.
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
    """Returns the bounding box of the pixels that aren't 0, scaled to `size` and widened to whole pixels."""
    x, y, width, height = cv2.boundingRect(plane)
    scale_x, scale_y = size[0] / plane.shape[1], size[1] / plane.shape[0]
    left, top = math.floor(x * scale_x), math.floor(y * scale_y)
    right = min(size[0], math.ceil((x + width) * scale_x))
    bottom = min(size[1], math.ceil((y + height) * scale_y))
    return left, top, right - left, bottom - top
