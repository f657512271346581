"""The part of onnxruntime that Mattebox uses; onnxruntime ships no types."""

from collections.abc import Mapping, Sequence
from enum import Enum
from os import PathLike
from typing import Any

from numpy.typing import NDArray

__version__: str

class GraphOptimizationLevel(Enum):
    ORT_DISABLE_ALL = 0
    ORT_ENABLE_ALL = 99

class OrtEpAssignedNode:
    name: str
    op_type: str

class OrtEpAssignedSubgraph:
    ep_name: str
    def get_nodes(self) -> Sequence[OrtEpAssignedNode]: ...

class ModelMetadata:
    custom_metadata_map: dict[str, str]

class NodeArg:
    name: str
    type: str
    shape: list[int | str | None]

class RunOptions:
    terminate: bool

class SessionOptions:
    intra_op_num_threads: int
    inter_op_num_threads: int
    log_severity_level: int
    graph_optimization_level: GraphOptimizationLevel
    def get_session_config_entry(self, key: str) -> str: ...
    def add_session_config_entry(self, key: str, value: str) -> None: ...
    def add_free_dimension_override_by_name(self, name: str, value: int) -> None: ...
    def add_external_initializers(self, names: Sequence[str], values: Sequence[OrtValue]) -> None: ...

class InferenceSession:
    def __init__(
        self,
        path_or_bytes: str | bytes | PathLike[str],
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, Mapping[str, str]]] | None = None,
    ) -> None: ...
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, NDArray[Any]],
        run_options: RunOptions | None = None,
    ) -> list[NDArray[Any]]: ...
    def get_inputs(self) -> list[NodeArg]: ...
    def get_outputs(self) -> list[NodeArg]: ...
    def get_providers(self) -> list[str]: ...
    def get_modelmeta(self) -> ModelMetadata: ...
    def get_provider_graph_assignment_info(self) -> Sequence[OrtEpAssignedSubgraph]: ...
    def disable_fallback(self) -> None: ...
    def io_binding(self) -> IOBinding: ...
    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None: ...

class OrtValue:
    @classmethod
    def ortvalue_from_numpy(cls, numpy_obj: NDArray[Any], device_type: str = "cpu", device_id: int = 0) -> OrtValue: ...
    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: Sequence[int], element_type: type[Any], device_type: str = "cpu", device_id: int = 0
    ) -> OrtValue: ...
    def update_inplace(self, data: NDArray[Any]) -> None: ...
    def numpy(self) -> NDArray[Any]: ...

class IOBinding:
    def bind_cpu_input(self, name: str, arr_on_cpu: NDArray[Any]) -> None: ...
    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: type[Any] | None = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None: ...
    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None: ...
    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None: ...
    def synchronize_outputs(self) -> None: ...

def get_available_providers() -> list[str]: ...
def preload_dlls() -> None: ...
