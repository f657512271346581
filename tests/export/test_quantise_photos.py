"""The photos that calibrate and judge: which are taken, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import images
import quantised
from mattebox_export.errors import ExportError
from mattebox_export.quantise import photos
from mattebox_export.quantise.photos import PhotoSet, folder_photos, skimage_photos, synthetic_photos
from mattebox_server.spec import Letterbox, ShortSide, Stretch

TINY = Stretch(width_px=4, height_px=3)


def grey_photos(folder: Path, count: int) -> Path:
    """Writes photos of one grey level each: 0, 1, 2 ..."""
    folder.mkdir()
    for level in range(count):
        (folder / f"{level:03}.png").write_bytes(images.encode(np.full((6, 8, 3), level, np.uint8)))
    return folder


def levels(found: PhotoSet) -> tuple[list[int], list[int]]:
    """The grey levels of the photos that calibrate, and of those that judge."""
    for photo in (*found.calibration, *found.judging):
        assert photo.dtype == np.uint8
        assert photo.shape == (3, 4, 3)
        assert np.ptp(photo) == 0
    return [int(photo[0, 0, 0]) for photo in found.calibration], [int(photo[0, 0, 0]) for photo in found.judging]


def test_every_second_photo_calibrates_and_the_others_judge(tmp_path: Path) -> None:
    found = folder_photos(grey_photos(tmp_path / "p", 11), TINY)
    assert levels(found) == ([0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9])
    assert found.source == "11 photos of a folder"


def test_of_many_photos_some_are_taken_at_equal_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MAX_PHOTOS", 10)
    found = folder_photos(grey_photos(tmp_path / "p", 25), TINY)
    assert levels(found) == ([0, 5, 10, 15, 20], [2, 7, 12, 17, 22])
    assert found.source == "10 photos of a folder"


def test_photos_in_folders_below_and_of_every_kind_count(tmp_path: Path) -> None:
    folder = grey_photos(tmp_path / "p", 7)
    (folder / "below").mkdir()
    for name, kind in (("a.JPG", "JPEG"), ("b.webp", "WEBP"), ("c.tiff", "TIFF")):
        (folder / "below" / name).write_bytes(images.encode(np.full((6, 8, 3), 99, np.uint8), kind))
    (folder / "notes.txt").write_text("no photo")
    assert len(folder_photos(folder, TINY).calibration) == 5


def test_colours_are_bgr_at_the_networks_size(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    red = np.zeros((60, 80, 3), np.uint8)
    red[..., 0] = 200
    for index in range(10):
        (folder / f"{index}.png").write_bytes(images.encode(red))
    found = folder_photos(folder, ShortSide(short_side_px=30, max_long_side_px=120))
    assert found.judging[0].shape == (30, 40, 3)
    assert found.judging[0][7, 7].tolist() == [0, 0, 200]
    boxed = folder_photos(folder, Letterbox(width_px=20, height_px=20, fill=5)).judging[0]
    assert (boxed[0, 0].tolist(), boxed[10, 10].tolist()) == ([5, 5, 5], [0, 0, 200])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nowhere: there is no such folder, and no such table"):
        folder_photos(tmp_path / "nowhere", TINY)


@pytest.mark.parametrize("count", [0, 9])
def test_too_few_photos(tmp_path: Path, count: int) -> None:
    with pytest.raises(ExportError, match=f"has {count} photos, at least 10 are needed"):
        folder_photos(grey_photos(tmp_path / "p", count), TINY)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "folder"])
def test_a_broken_photo_is_named(tmp_path: Path, damage: str) -> None:
    folder = quantised.save_photos(tmp_path / "p")
    broken = folder / "007.png"
    data = broken.read_bytes()
    broken.unlink()
    if damage == "folder":
        broken.mkdir()
    else:
        broken.write_bytes({"empty": b"", "text": b"no photo at all", "half": data[: len(data) // 2]}[damage])
    with pytest.raises(ExportError, match=r"--calibration: .*007\.png can't be read: ."):
        folder_photos(folder, TINY)


def test_photos_of_scikit_image_are_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    found = skimage_photos(TINY)
    assert found is not None
    assert found.source == "scikit-image's photos"
    assert len(found.calibration) == len(found.judging) >= 10
    assert {photo.shape for photo in (*found.calibration, *found.judging)} == {(3, 4, 3)}
    assert len({photo.tobytes() for photo in (*found.calibration, *found.judging)}) > 20

    def absent(_: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert skimage_photos(TINY) is None


def test_drawn_photos_are_all_different() -> None:
    found = synthetic_photos(ShortSide(short_side_px=30, max_long_side_px=120))
    everything = [*found.calibration, *found.judging]
    assert {photo.shape for photo in everything} == {(30, 40, 3)}
    assert len({photo.tobytes() for photo in everything}) == len(everything) >= 10
