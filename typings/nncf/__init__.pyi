"""The part of NNCF that Mattebox uses; NNCF ships no types that checkers may read."""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import onnx
from numpy.typing import NDArray

class QuantizationPreset(Enum):
    PERFORMANCE = "performance"
    MIXED = "mixed"

class IgnoredScope:
    def __init__(self, names: list[str]) -> None: ...

class Dataset:
    def __init__(self, data_source: Iterable[Mapping[str, NDArray[Any]]]) -> None: ...

def set_log_level(level: int) -> None: ...
def quantize(
    model: onnx.ModelProto,
    calibration_dataset: Dataset,
    *,
    preset: QuantizationPreset | None = None,
    subset_size: int = 300,
    ignored_scope: IgnoredScope | None = None,
) -> onnx.ModelProto: ...
