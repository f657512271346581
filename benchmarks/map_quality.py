"""The quality of what a network answers in a reduced precision: beside fp32, and beside the true masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import cv2
import numpy as np
from quality import Case

from mattebox_export.quantise.judging import compare, overlap
from mattebox_server.imaging.pixels import Pixels
from mattebox_server.imaging.preprocess import preprocess
from mattebox_server.spec import Fidelity, Resize

Answer = Callable[[Pixels], Pixels]
"""From a photo uint8 (h, w, 3) BGR at the network's size to its foreground uint8 (h, w)."""


@dataclass(frozen=True)
class MapQuality:
    """How good answers are.

    Args:
        fidelity: how near they come to fp32.
        true_iou: mean intersection over union of the subjects with the true ones, where these are known.
    """

    fidelity: Fidelity
    true_iou: float


def judge(cases: Sequence[Case], resize: Resize, expected: Sequence[Pixels], answer: Answer) -> MapQuality:
    """Judges answers to photos; `expected` are the answers uint8 (h, w) of the same network in fp32."""
    found = answers(cases, resize, answer)
    return MapQuality(
        compare(expected, found), mean(_true_overlap(case, map_) for case, map_ in zip(cases, found, strict=True))
    )


def answers(cases: Sequence[Case], resize: Resize, answer: Answer) -> list[Pixels]:
    """The answer to each photo, uint8 (h, w)."""
    return [answer(preprocess(case.photo, resize).image) for case in cases]


def _true_overlap(case: Case, found: Pixels) -> float:
    """The overlap with the true subject, at the photo's own size, where the truth is known."""
    height, width = case.truth.shape
    whole = np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return overlap(
        np.where(case.known, case.truth, 0).astype(np.uint8), np.where(case.known, whole, 0).astype(np.uint8)
    )
