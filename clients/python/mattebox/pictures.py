"""Results as NumPy arrays and Pillow images. NumPy and Pillow are imported when one is asked for."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_LAYOUTS = {"rgb": ("RGB", 3), "rgba": ("RGBA", 4), "gray": ("L", 1)}


def to_pil(image: bytes, width: int, height: int, pixel_format: str | None) -> Image:
    """Returns the Pillow image of a file's bytes, or of bare pixels where there is a pixel format.

    Raises:
        ModuleNotFoundError: Pillow is missing.
        ValueError: the pixel format is "unknown".
    """
    try:
        from PIL import Image  # noqa: PLC0415 - it is an optional dependency
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("this needs Pillow: pip install pillow", name=error.name) from error
    if pixel_format is not None:
        mode, _ = _layout(pixel_format)
        return Image.frombytes(mode, (width, height), image)
    picture = Image.open(io.BytesIO(image))
    picture.load()
    return picture


def to_numpy(image: bytes, width: int, height: int, pixel_format: str | None) -> NDArray[np.uint8]:
    """Returns the pixels of a file, or bare pixels: uint8 (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey.

    Raises:
        ModuleNotFoundError: NumPy is missing, or Pillow, which decodes files.
        ValueError: the pixel format is "unknown".
    """
    import numpy as np  # noqa: PLC0415 - it is an optional dependency

    if pixel_format is None:
        return np.array(to_pil(image, width, height, None), np.uint8)
    _, channels = _layout(pixel_format)
    pixels = np.frombuffer(image, np.uint8).reshape(height, width, channels)
    return (pixels[..., 0] if channels == 1 else pixels).copy()


def _layout(pixel_format: str) -> tuple[str, int]:
    """Returns Pillow's mode and the number of channels."""
    if pixel_format not in _LAYOUTS:
        raise ValueError("the server is newer than this client, which doesn't know the layout of these pixels")
    return _LAYOUTS[pixel_format]
