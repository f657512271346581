"""The instruction sets of this machine's processor."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def instruction_sets(path: Path = CPUINFO) -> str:
    """The instruction sets that a file like /proc/cpuinfo lists; where there is none, as on macOS, the processor."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return " ".join(sorted(next(found, list[str]())))


def saturates(path: Path = CPUINFO) -> bool:
    """Whether this is an x86 processor without VNNI: fast int8 kernels add products in 16 bits, and overflow."""
    found = instruction_sets(path).split()
    return "avx2" in found and not _VNNI.intersection(found)
