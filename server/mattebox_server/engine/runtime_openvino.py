"""OpenVINO by its own package, on any vendor's CPU. `providers` imports it, which keeps it from sending usage data.

A compiled network is kept as one file, which OpenVINO exports and imports.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import structlog
from numpy.typing import NDArray

from mattebox_server.engine.config import ProviderName
from mattebox_server.engine.inference import is_out_of_memory
from mattebox_server.engine.plan import Device, Plan
from mattebox_server.engine.processor import instruction_sets
from mattebox_server.engine.session import Port, Stop
from mattebox_server.imaging.pixels import Pixels

log = structlog.stdlib.get_logger(__name__)

_CPU = "CPU"
_BLOB = "network.blob"


@functools.cache
def _core() -> openvino.Core:
    """The one `Core` of the process, which is never freed.

    The CPU plugin of each gives the thread that makes it another stack for signals, and puts the earlier one back when
    it is freed. If the first of two is freed first, a stack that is gone is put back, and the next signal (SIGTERM of
    an operator, for example) crashes the process. Seen with 2026.4.1.
    """
    return openvino.Core()


def find_device(provider: ProviderName) -> Device:
    """The CPU. Its instruction sets are part of its name, because a virtual machine may hide some of them."""
    core = _core()
    abilities: Sequence[str] = core.get_property(_CPU, "OPTIMIZATION_CAPABILITIES")
    parts = str(core.get_property(_CPU, "FULL_DEVICE_NAME")).strip(), *sorted(abilities), instruction_sets()
    native = frozenset({"bf16"} if "BF16" in abilities else ())
    return Device(provider, " ".join(parts), {"openvino": openvino.get_version()}, native)


def load(plan: Plan, cache: Path | None) -> "OpenVinoNetwork":
    """Loads a network, as `Runtime` describes."""
    core, options = _core(), plan.options(cache)
    blob = None if cache is None else cache / _BLOB
    if blob is not None and blob.exists():
        # Not mapped into memory, because a mapped file that somebody cuts short ends the process.
        return OpenVinoNetwork(core.import_model(blob.read_bytes(), _CPU, options))
    model = core.read_model(plan.artifact.path)
    if length := plan.fixed.get("batch"):
        model.reshape({port: [length, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    compiled = core.compile_model(model, _CPU, options)
    if blob is not None:
        _keep(compiled, blob)
    return OpenVinoNetwork(compiled)


class OpenVinoNetwork:
    """A network on OpenVINO; a `Loaded`."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.inputs: Sequence[Port] = [_port(port) for port in compiled.inputs]
        self.outputs: Sequence[Port] = [_port(port) for port in compiled.outputs]
        self._request: openvino.InferRequest | None = compiled.create_infer_request()

    @property
    def is_open(self) -> bool:
        """Whether it isn't closed."""
        return self._request is not None

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, Pixels], stop: Stop | None) -> None:
        """Runs the network into given buffers, as `Loaded` describes.

        It closes itself when it has no memory: smaller runs would fail then as well, or even crash the process (seen
        with 2026.4).
        """
        if self._request is None:
            raise RuntimeError("the network is closed")
        # The tensors share the arrays' memory, which therefore must be in order, and writable even of inputs.
        buffers = {name: np.require(value, requirements=("C", "W")) for name, value in feeds.items()} | dict(outputs)
        for name, buffer in buffers.items():
            self._request.set_tensor(name, openvino.Tensor(buffer, shared_memory=True))
        try:
            _run(self._request, stop)
        except Exception as error:
            if is_out_of_memory(error):
                self.close()
            raise
        for name, buffer in outputs.items():
            # OpenVINO refuses what is too large for a buffer, and writes what is smaller to its beginning.
            if (shape := tuple(self._request.get_tensor(name).shape)) != buffer.shape:
                raise ValueError(f"its {name} is {shape} instead of {buffer.shape}")

    def close(self) -> None:
        """Frees what the network takes."""
        self._request = None


def _run(request: openvino.InferRequest, stop: Stop | None) -> None:
    # In this order, because `cancel` does nothing before a run starts. After its end it would stop the next one.
    request.start_async()
    if stop is not None:
        stop.on_ask(request.cancel)
    try:
        request.wait()
    finally:
        if stop is not None:
            stop.forget()


def _port(port: openvino.Output) -> Port:
    batch = port.get_partial_shape()[0]
    length = batch.get_length() if batch.is_static else None
    return Port(frozenset(port.names), port.element_type.to_dtype().name, length)


def _keep(compiled: openvino.CompiledModel, blob: Path) -> None:
    try:
        blob.write_bytes(compiled.export_model().getbuffer())
    except OSError as error:  # the disk is full: the next start compiles again
        log.warning("compiled model not kept", reason=error.strerror)
        blob.unlink(missing_ok=True)
