"""The facts of the machine on which measured figures depend."""

import importlib.metadata
import os
import platform
from pathlib import Path

_PACKAGES = (
    "mattebox", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "torchvision",
    "opencv-python-headless", "numpy", "grpcio",
)  # fmt: skip
# What decides how fast a CPU is in reduced precisions, the fastest first: a flag of the processor, and its class.
_CLASSES = (
    ("amx_int8", "AMX"),
    ("avx512_bf16", "AVX512-BF16"),
    ("avx512_vnni", "VNNI"),
    ("avx_vnni", "VNNI"),
    ("avx2", "AVX2"),
)
_INSTRUCTION_SETS = ("amx", "avx2", "avx512", "bf16", "fp16", "vnni")


def describe_machine() -> dict[str, object]:
    """Returns the processor, its instruction sets that matter to networks, the cores, and the versions of libraries."""
    fields: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return {
        "platform": platform.platform(),
        "processor": fields.get("model name", platform.processor()),
        "class": next((name for flag, name in _CLASSES if flag in flags), platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in flags if any(word in flag for word in _INSTRUCTION_SETS)],
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
