from typing import Any

class _Weights:
    url: str
    meta: dict[str, Any]

class DeepLabV3_ResNet101_Weights:
    DEFAULT: _Weights

class DeepLabV3_ResNet50_Weights:
    DEFAULT: _Weights

class DeepLabV3_MobileNet_V3_Large_Weights:
    DEFAULT: _Weights
