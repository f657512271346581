"""The reference recipe, written out plainly in float64: what `gaussian` at size MODEL on white must equal.

Photo -> model's size -> [0, 1] -> normalised -> network -> argmax -> colour map -> threshold at 0 -> 7x7 blur ->
photo x alpha + white x (1 - alpha).
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # (1, 3, h, w) RGB -> logits (1, C, h, w)


def recipe(photo: Bytes, size: tuple[int, int], mean: Any, std: Any, network: Network) -> tuple[Floats, NDArray[Any]]:
    """The composite float64 (h, w, 3) BGR of a photo uint8 (H, W, 3) BGR, and the logits float32 (C, h, w).

    `size` is width and height of the network's input.
    """
    shrinks = size[0] <= photo.shape[1] and size[1] <= photo.shape[0]
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    unit = small[..., ::-1] / 255.0
    tensor = ((unit - np.array(mean)) / np.array(std)).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    logits = network(tensor)[0]
    colours = voc_colour_map()[logits.argmax(0)]
    grey = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
    mask = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY)[1]
    alpha = (cv2.GaussianBlur(mask, (7, 7), 0) / 255.0)[..., np.newaxis]
    return np.asarray(small * alpha + 255.0 * (1.0 - alpha), np.float64), logits


def short_side(photo: Bytes, side: int) -> tuple[int, int]:
    """Width and height when the short side becomes `side`, as torchvision's `Resize` rounds them."""
    height, width = photo.shape[:2]
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def undecided(logits: NDArray[Any], margin: float = 1e-3) -> NDArray[np.bool_]:
    """Pixels (h, w) near which float32 can't tell the class: the two likeliest are within `margin` in a 7x7 window."""
    top = np.sort(logits, axis=0)[-2:]
    close = (top[1] - top[0] < margin).astype(np.uint8)
    return cv2.dilate(close, np.ones((7, 7), np.uint8)).astype(bool)


def voc_colour_map() -> Bytes:
    """The colours of Pascal VOC's devkit, uint8 (256, 3) RGB; class 0 is black."""
    colours = np.zeros((256, 3), np.uint8)
    for index in range(256):
        bits = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                colours[index, channel] |= ((bits >> channel) & 1) << shift
            bits >>= 3
    return colours
