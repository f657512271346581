"""The forms that a photo can have, and how each becomes bytes. NumPy and Pillow are never imported for it."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, cast

from mattebox.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

PixelFormat: TypeAlias = Literal["rgb", "bgr", "rgba", "bgra", "gray"]

_CHANNELS: dict[int, PixelFormat] = {1: "gray", 3: "rgb", 4: "rgba"}
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


@dataclass(frozen=True)
class RawPhoto:
    """Bare pixels instead of an image file.

    Args:
        data: the rows from top to bottom without padding, 8 bits a channel: width x height x channels bytes.
        width: the width in pixels.
        height: the height in pixels.
        pixel_format: the order of the channels.
    """

    data: bytes | bytearray | memoryview
    width: int
    height: int
    pixel_format: PixelFormat = "rgb"


FileSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]
"""An image file: its bytes, its path, or an open binary file."""

PhotoSource: TypeAlias = "FileSource | RawPhoto | NDArray[np.uint8] | Image"
"""A photo: an image file, bare pixels, a NumPy array (uint8, RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W)), or a Pillow
image."""


def read_photo(photo: PhotoSource) -> bytes | RawPhoto:
    """Returns an image file's bytes, or bare pixels.

    Raises:
        OSError: the file can't be read.
        InvalidRequest: an array has a wrong shape or type.
        TypeError: the photo is of a wrong type.
        ValueError: the path is empty.
    """
    if isinstance(photo, RawPhoto):
        if not isinstance(photo.data, bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"photo.data must be bytes, not {type(photo.data).__name__}")
        return photo
    if _is_a(photo, "numpy", "ndarray"):
        return _of_array(photo)
    if _is_a(photo, "PIL.Image", "Image"):
        return _of_picture(photo)
    return read_file(cast(FileSource, photo))


def read_file(source: FileSource) -> bytes:
    """Returns the bytes of a file that is given as bytes, path or open binary file.

    Raises:
        OSError: the file can't be read.
        TypeError: the source is of a wrong type, or a file that is open as text.
        ValueError: the path is empty.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise ValueError("the path is empty")
        return Path(source).read_bytes()
    if not hasattr(source, "read"):
        raise TypeError(f"expected bytes, a path or a binary file, not {type(source).__name__}")
    data: object = source.read()
    if isinstance(data, str):
        raise TypeError("the file is open as text; open it with mode 'rb'")
    if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - not every file is typed
        raise TypeError(f"the file's read() gave {type(data).__name__}, not bytes")
    return data


def _is_a(photo: object, module: str, name: str) -> bool:
    """Whether a photo is of a class whose module is imported already; if it isn't, no photo can be of the class."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(photo, getattr(loaded, name))


def _of_array(array: Any) -> RawPhoto:
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if array.dtype != "uint8" or channels not in _CHANNELS or not array.size:
        what = f"an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}"
        raise InvalidRequest.of(("raw.data", what))
    height, width = array.shape[:2]
    return RawPhoto(array.tobytes(), width, height, _CHANNELS[channels])


def _of_picture(picture: Any) -> bytes:
    """Returns an image file of an upright picture, with its colour profile and without its other EXIF data."""
    from PIL import ImageOps  # noqa: PLC0415 - there is a picture, so Pillow is imported already

    upright = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    file = io.BytesIO()
    if upright.mode == "CMYK":  # PNG can't hold CMYK
        upright.save(file, "TIFF", icc_profile=profile)
        return file.getvalue()
    if upright.mode not in _PNG_MODES:
        upright, profile = upright.convert("RGB"), None
    bare = upright.copy()
    bare.info = {key: value for key, value in upright.info.items() if key == "transparency"}
    bare.save(file, "PNG", compress_level=1, icc_profile=profile)
    return file.getvalue()
