"""What NVIDIA's driver says of a GPU: enough to tell devices apart, without CUDA's toolkit."""

import ctypes
from dataclasses import dataclass

from mattebox_server.engine.config import ProviderUnavailable

_DRIVER = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute of cuda.h
_TF32_SINCE = 8  # compute capability of Ampere
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Args:
        name: as the driver calls it.
        capability: compute capability, major and minor.
        driver: CUDA version of the driver, such as 13000.
    """

    name: str
    capability: tuple[int, int]
    driver: int

    @property
    def has_tf32(self) -> bool:
        """Whether its tensor cores take fp32 in TensorFloat-32."""
        return self.capability[0] >= _TF32_SINCE


def find_gpu(device_id: int, library: str = _DRIVER) -> Gpu:
    """Asks the driver.

    Raises:
        ProviderUnavailable: there is no driver, or no such GPU.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise ProviderUnavailable(f"there is no NVIDIA driver on this machine ({library})") from error
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        raise ProviderUnavailable("NVIDIA's driver finds no GPU")
    if device_id >= count.value:
        raise ProviderUnavailable(f"there is no GPU {device_id}: NVIDIA's driver finds {count.value}")
    name, major, minor = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int(), ctypes.c_int()
    failures = (
        driver.cuDeviceGet(ctypes.byref(device), device_id),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(failures):
        raise ProviderUnavailable(f"NVIDIA's driver doesn't say what GPU {device_id} is: errors {failures}")
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), version.value)
