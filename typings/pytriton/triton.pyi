from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pytriton.model_config import ModelConfig, Tensor

class Request:
    def __getitem__(self, name: str) -> NDArray[np.uint8]: ...

class TritonConfig:
    def __init__(self, *, grpc_address: str, grpc_port: int, allow_http: bool, allow_metrics: bool) -> None: ...

class Triton:
    def __init__(self, *, config: TritonConfig) -> None: ...
    def __enter__(self) -> Triton: ...
    def __exit__(self, *_: object) -> None: ...
    def bind(
        self,
        model_name: str,
        infer_func: Sequence[Callable[[list[Request]], list[dict[str, NDArray[np.uint8]]]]],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        config: ModelConfig,
    ) -> None: ...
    def serve(self) -> None: ...
