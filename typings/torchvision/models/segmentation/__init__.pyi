from typing import Any

from torch import Tensor

class _Weights:
    url: str
    meta: dict[str, Any]
    def get_state_dict(self, *, progress: bool, check_hash: bool) -> dict[str, Tensor]: ...

class DeepLabV3_ResNet101_Weights:
    DEFAULT: _Weights

class DeepLabV3_ResNet50_Weights:
    DEFAULT: _Weights

class DeepLabV3_MobileNet_V3_Large_Weights:
    DEFAULT: _Weights
