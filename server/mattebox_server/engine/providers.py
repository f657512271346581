"""The execution providers: which runtime runs each, and why one can't be used on this machine.

Mattebox never changes to another provider without a word. A provider that is asked for by name loads, or the server
stops with the reason. `auto` tries the providers of `LADDER` in turn, and the log says why each one was left out.
"""

import sys
from pathlib import Path
from typing import Protocol

from mattebox_server.engine.config import ABILITIES, LADDER, ProviderName, ProviderUnavailable
from mattebox_server.engine.plan import Device, Plan
from mattebox_server.engine.session import Loaded
from mattebox_server.spec import Target


class Runtime(Protocol):
    """A library that runs networks: the module `runtime_onnxruntime` or `runtime_openvino`."""

    def find_device(self, provider: ProviderName) -> Device:
        """Finds the device that a provider would run on. Raises ProviderUnavailable, with what is missing."""
        ...

    def load(self, plan: Plan, cache: Path | None) -> Loaded:
        """Loads a network.

        Args:
            plan: the artifact, and how it is to run.
            cache: folder that holds the compiled network or, if it is empty, takes it; None means no cache.

        Raises:
            ProviderUnavailable: the network, or part of it, would not run there.
            Exception: the runtime can't load it, for any other reason.
        """
        ...


def runtime_of(provider: ProviderName) -> Runtime:
    """The runtime that runs a provider's networks. It is imported here, because the other one may not be installed.

    Raises:
        ProviderUnavailable: it is not installed.
    """
    if provider != "openvino":
        from mattebox_server.engine import runtime_onnxruntime  # noqa: PLC0415

        return runtime_onnxruntime
    # OpenVINO reports each import to Google Analytics, unless this package of its own is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # pyright: ignore
    try:
        from mattebox_server.engine import runtime_openvino  # noqa: PLC0415
    except ImportError as error:
        raise ProviderUnavailable(f"OpenVINO doesn't load ({error}): pip install openvino") from error
    return runtime_openvino


def find_device(provider: ProviderName) -> Device:
    """Finds the device that a provider would run on.

    Raises:
        ProviderUnavailable: there is none; the message says what is missing and how to install it.
    """
    return runtime_of(provider).find_device(provider)


def best_target() -> Target:
    """The target of an export for this machine: that of the first provider of the ladder which runs here."""
    for provider in LADDER:
        try:
            return ABILITIES[find_device(provider).provider].target
        except ProviderUnavailable:  # the server logs the reason when it chooses its own provider
            continue
    raise AssertionError("the CPU is always there")
