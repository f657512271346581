"""Calibration tables: what photos taught about a network, without the photos.

With a table an int8 network is exported without NNCF and without any photo. Tables of the networks in the catalogue
travel with the package; `make calibrate` makes them.
"""

import base64
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mattebox_export.errors import ExportError
from mattebox_server.spec import Fidelity, Resize

_PACKAGED = "tables"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Int8(_Frozen):
    """How a network becomes int8. All names are those of the core's own graph.

    Args:
        symmetric: whether the zero points of activations are 0, as TensorRT needs it.
        ranges: least and greatest value of each activation that is quantised, by its name.
        biases: corrected biases, by the name of their node: float32 (C,), little-endian, in base64.
        float_layers: names of the nodes that compute in float, although they could compute in int8.
        fidelity: how near the int8 network comes to fp32.
    """

    symmetric: bool
    ranges: dict[str, tuple[float, float]]
    biases: dict[str, str]
    float_layers: tuple[str, ...]
    fidelity: Fidelity

    def bias(self, node: str) -> NDArray[np.float32] | None:
        """The corrected bias of a node, float32 (C,); None if it keeps its own."""
        text = self.biases.get(node)
        return None if text is None else np.frombuffer(base64.b64decode(text), "<f4")


class CalibrationTable(_Frozen):
    """What photos taught about one network with one set of weights, at one input size.

    Args:
        network: name of the network.
        weights_sha256: digest of the weights, without which the table means nothing.
        resize: how photos got the network's size.
        source: the photos, in a phrase.
        int8: how the network becomes int8; None if it doesn't pass the gate.
        bf16: how near bf16 comes to fp32.
    """

    version: Literal[1] = 1
    network: str
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    resize: Resize
    source: str
    int8: Int8 | None
    bf16: Fidelity


def encode_bias(bias: NDArray[np.float32]) -> str:
    """The text of a bias float32 (C,) in a table."""
    return base64.b64encode(bias.astype("<f4").tobytes()).decode()


def read_table(path: Path, weights_sha256: str, resize: Resize) -> CalibrationTable:
    """Reads a table, which must be for these weights and this input size.

    Raises:
        ExportError: the file can't be read, is no table, or is for other weights or another size.
    """
    try:
        table = CalibrationTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ExportError(f"can't read the calibration table {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ExportError(f"{path} is not a calibration table: {error}") from error
    if table.weights_sha256 != weights_sha256:
        raise ExportError(
            f"the calibration table {path} is for other weights: {table.weights_sha256}, not {weights_sha256}"
        )
    if table.resize != resize:
        raise ExportError(f"the calibration table {path} is for another input size: {table.resize}, not {resize}")
    return table


def packaged_table(network: str, weights_sha256: str, resize: Resize) -> CalibrationTable | None:
    """The package's table for a network; None if there is none for these weights and this size."""
    file = resources.files("mattebox_export") / _PACKAGED / f"{network}.json"
    if not file.is_file():
        return None
    table = CalibrationTable.model_validate_json(file.read_bytes())
    return table if (table.weights_sha256, table.resize) == (weights_sha256, resize) else None
