"""The part of openvino that the benchmarks and tests use; its own annotations are partial."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from numpy.typing import NDArray

class Model: ...

class Output:
    any_name: str

class InferRequest:
    model_inputs: Sequence[Output]
    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> object: ...

class CompiledModel:
    def create_infer_request(self) -> InferRequest: ...
    def __call__(self, inputs: NDArray[Any]) -> Sequence[NDArray[Any]]: ...

class Core:
    def get_property(self, device: str, name: str) -> Sequence[str]: ...
    def read_model(self, model: str | PathLike[str]) -> Model: ...
    def compile_model(self, model: Model | bytes, device: str, config: Mapping[str, object]) -> CompiledModel: ...
