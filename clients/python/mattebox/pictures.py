"""Results as arrays and pictures, for those who have NumPy and Pillow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_MODES = {"rgb": "RGB", "rgba": "RGBA", "gray": "L"}
_CHANNELS = {"rgb": 3, "rgba": 4, "gray": 1}


def to_pil(image: bytes, width: int, height: int, pixel_format: str | None) -> Image:
    """A picture of a file's bytes, or of bare pixels if there is a pixel format. Raises ModuleNotFoundError."""
    try:
        from PIL import Image  # noqa: PLC0415 - only those who ask need it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("this needs Pillow: pip install pillow", name=error.name) from error
    if pixel_format is not None:
        return Image.frombytes(_MODES[pixel_format], (width, height), image)
    picture = Image.open(io.BytesIO(image))
    picture.load()
    return picture


def to_numpy(image: bytes, width: int, height: int, pixel_format: str | None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey. Raises ModuleNotFoundError."""
    import numpy as np  # noqa: PLC0415 - only those who ask need it

    if pixel_format is None:
        return np.array(to_pil(image, width, height, None), np.uint8)
    pixels = np.frombuffer(image, np.uint8).reshape(height, width, _CHANNELS[pixel_format])
    return (pixels[..., 0] if pixel_format == "gray" else pixels).copy()
