"""The photos on which int8 networks are calibrated, and those on which reduced precisions are judged."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mattebox_export.errors import ExportError
from mattebox_export.race import usual_size
from mattebox_server.engine.selfcheck import synthetic_photo
from mattebox_server.errors import MatteboxError
from mattebox_server.imaging import codec, headers
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.preprocess import preprocess
from mattebox_server.spec import Resize

MIN_PHOTOS, MAX_PHOTOS = 10, 200
SKIMAGE = "scikit-image's photos"
"""The source of the photos that are the last resort."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp"})
_LIMITS = PhotoLimits(max_bytes=200_000_000, max_pixels=200_000_000)
_SYNTHETIC_PHOTOS = 12
# The photos of scikit-image that show natural scenes.
_SKIMAGE_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "color.png")


@dataclass(frozen=True)
class PhotoSet:
    """Photos uint8 (h, w, 3) BGR at the network's size.

    Args:
        calibration: photos that give the ranges of the activations.
        judging: other photos, on which a reduced precision is compared with fp32.
        source: one phrase that says where the photos come from.
    """

    calibration: Sequence[Pixels]
    judging: Sequence[Pixels]
    source: str


def folder_photos(folder: Path, resize: Resize) -> PhotoSet:
    """Reads the photos of a folder and of the folders in it. Every second one calibrates, the others judge.

    Of more than MAX_PHOTOS photos, MAX_PHOTOS are taken at equal distances.

    Raises:
        ExportError: there is no such folder, it has fewer than MIN_PHOTOS photos, or one of them is broken.
    """
    if not folder.is_dir():
        raise ExportError(f"--calibration {folder}: there is no such folder, and no such table")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if len(files) < MIN_PHOTOS:
        raise ExportError(f"--calibration {folder}: has {len(files)} photos, at least {MIN_PHOTOS} are needed")
    count = min(len(files), MAX_PHOTOS)
    chosen = [files[index * len(files) // count] for index in range(count)]
    photos = [preprocess(_decode(path), resize).image for path in chosen]
    return PhotoSet(photos[::2], photos[1::2], f"{count} photos of a folder")


def skimage_photos(resize: Resize) -> PhotoSet | None:
    """scikit-image's natural photos, as they are and in parts; None if scikit-image isn't installed.

    They are too few, and too much alike, for a good calibration.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "data"
    whole = [_decode(folder / name) for name in _SKIMAGE_PHOTOS if (folder / name).exists()]
    parts = [part for photo in whole for part in _parts(photo)]
    photos = [preprocess(photo, resize).image for photo in parts]
    return PhotoSet(photos[::2], photos[1::2], SKIMAGE)


def synthetic_photos(resize: Resize) -> PhotoSet:
    """Photos that are drawn, for random weights, which answer one photo as well as another."""
    photos = [synthetic_photo(*usual_size(resize), seed) for seed in range(_SYNTHETIC_PHOTOS)]
    return PhotoSet(photos[::2], photos[1::2], "drawn photos, as the weights are random")


def _parts(photo: Pixels) -> Iterator[Pixels]:
    """The photo, its mirror image, and its four overlapping corners of three quarters of each side."""
    height, width = photo.shape[0] * 3 // 4, photo.shape[1] * 3 // 4
    yield photo
    yield photo[:, ::-1]
    for rows in (slice(None, height), slice(-height, None)):
        for columns in (slice(None, width), slice(-width, None)):
            yield photo[rows, columns]


def _decode(path: Path) -> Pixels:
    try:
        data = path.read_bytes()
        return codec.decode(data, headers.probe(data, _LIMITS, "photo"), "photo").bgr
    except (OSError, MatteboxError) as error:
        raise ExportError(f"--calibration: {path} can't be read: {error}") from error
