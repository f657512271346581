"""The name and the abilities of a GPU, from NVIDIA's driver, so that CUDA's toolkit needn't be installed."""

import ctypes
from dataclasses import dataclass

from mattebox_server.engine.config import ProviderUnavailable

_DRIVER = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute of cuda.h
_TF32_SINCE = 8  # compute capability of Ampere
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU's name, its compute capability, and the newest CUDA version of its driver, such as 13000 for 13.0."""

    name: str
    capability: tuple[int, int]
    driver: int

    @property
    def has_tf32(self) -> bool:
        """Whether its tensor cores compute in TensorFloat-32."""
        return self.capability[0] >= _TF32_SINCE


def find_gpu(library: str = _DRIVER) -> Gpu:
    """Asks NVIDIA's driver for the first GPU of those that the environment variable CUDA_VISIBLE_DEVICES shows.

    Raises:
        ProviderUnavailable: there is no driver, or no GPU.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise ProviderUnavailable(f"there is no NVIDIA driver on this machine ({library})") from error
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise ProviderUnavailable("NVIDIA's driver finds no GPU")
    name, major, minor = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int(), ctypes.c_int()
    failures = (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(failures):
        raise ProviderUnavailable(f"NVIDIA's driver doesn't say what GPU 0 is: errors {failures}")
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), version.value)
