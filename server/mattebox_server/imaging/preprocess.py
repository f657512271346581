"""Scales photos to the input size of a network.

Only the size changes here: channel order, scaling to [0, 1] and normalisation are nodes of the graph.
"""

from dataclasses import dataclass

import numpy as np

from mattebox_server.imaging.pixels import Pixels, resize, shrink_fast
from mattebox_server.imaging.rectangle import Rectangle, whole
from mattebox_server.spec import Letterbox, Resize, ShortSide, Stretch


@dataclass(frozen=True)
class ModelInput:
    """A photo at the model's size."""

    image: Pixels  # uint8 (h, w, 3) BGR, contiguous
    geometry: Rectangle  # the part of `image` that the photo fills; the rest is padding


def content_size(width_px: int, height_px: int, policy: Resize) -> tuple[int, int]:
    """Returns the width and height in pixels of the photo in the network's input, without padding.

    `ShortSide` rounds the long side down, as torchvision's `Resize` does.
    """
    match policy:
        case Stretch():
            return policy.width_px, policy.height_px
        case Letterbox():
            scale = min(policy.width_px / width_px, policy.height_px / height_px)
            return max(1, round(width_px * scale)), max(1, round(height_px * scale))
        case ShortSide(short_side_px=new_short, max_long_side_px=longest):
            short, long = sorted((width_px, height_px))
            new_long = new_short * long // short
            if new_long > longest:
                new_short, new_long = max(1, longest * short // long), longest
            return (new_short, new_long) if width_px <= height_px else (new_long, new_short)


def preprocess(bgr: Pixels, policy: Resize, exact: bool = False) -> ModelInput:
    """Scales a photo uint8 (H, W, 3) BGR to the input size of a network.

    With `exact` the scaling averages over exact areas, fractions of pixels included, which is slower.
    """
    width_px, height_px = content_size(bgr.shape[1], bgr.shape[0], policy)
    content = resize(bgr, width_px, height_px) if exact else shrink_fast(bgr, width_px, height_px)
    if not isinstance(policy, Letterbox):
        return ModelInput(np.ascontiguousarray(content), whole(content))
    x_px, y_px = (policy.width_px - width_px) // 2, (policy.height_px - height_px) // 2
    geometry = Rectangle(x_px, y_px, width_px, height_px)
    frame = np.full((policy.height_px, policy.width_px, 3), policy.fill, np.uint8)
    geometry.crop(frame)[:] = content
    return ModelInput(frame, geometry)
