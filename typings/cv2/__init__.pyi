"""The calls of OpenCV that Mattebox makes.

OpenCV's own stubs say only that an array holds numbers. These say which: most functions return the type that they get.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.number[Any])
_Pixels = NDArray[np.uint8]
_Rectangle = tuple[int, int, int, int]
_Size = tuple[int, ...]

__version__: str

BORDER_REFLECT: int
BORDER_REFLECT_101: int
BORDER_REPLICATE: int
CC_STAT_AREA: int
COLOR_BGR2BGRA: int
COLOR_BGR2LAB: int
COLOR_BGR2RGB: int
COLOR_BGRA2BGR: int
COLOR_BGRA2RGBA: int
COLOR_GRAY2BGR: int
COLOR_RGB2BGR: int
COLOR_RGB2GRAY: int
COLOR_RGBA2BGR: int
CV_8U: Final = 0
CV_64F: Final = 6
DIST_L2: int
GC_BGD: int
GC_FGD: int
GC_INIT_WITH_MASK: int
GC_PR_BGD: int
GC_PR_FGD: int
IMAGE_METADATA_ICCP: int
IMREAD_ANYDEPTH: int
IMREAD_COLOR: int
IMREAD_GRAYSCALE: int
IMREAD_IGNORE_ORIENTATION: int
IMREAD_REDUCED_COLOR_2: int
IMREAD_REDUCED_COLOR_4: int
IMREAD_REDUCED_COLOR_8: int
IMREAD_UNCHANGED: int
IMWRITE_JPEG_QUALITY: int
IMWRITE_WEBP_QUALITY: int
INTER_AREA: int
INTER_CUBIC: int
INTER_LINEAR: int
INTER_NEAREST: int
MORPH_ELLIPSE: int
MORPH_GRADIENT: int
THRESH_BINARY: int
WARP_INVERSE_MAP: int

class error(Exception): ...

def setNumThreads(nthreads: int) -> None: ...
def setRNGSeed(seed: int) -> None: ...

# Files.
def imdecode(buf: _Pixels, flags: int) -> NDArray[Any] | None: ...  # the file and the flags decide the type
def imencode(ext: str, img: _Pixels, params: Sequence[int] = ...) -> tuple[bool, _Pixels]: ...
def imencodeWithMetadata(
    ext: str, img: _Pixels, metadataTypes: Sequence[int], metadata: Sequence[_Pixels], params: Sequence[int] = ...
) -> tuple[bool, _Pixels]: ...
def imread(filename: str, flags: int = ...) -> NDArray[Any] | None: ...
def imwrite(filename: str, img: _Pixels) -> bool: ...

# Geometry.
def resize(src: NDArray[_Number], dsize: _Size, *, interpolation: int = ...) -> NDArray[_Number]: ...
def warpAffine(
    src: NDArray[_Number], M: NDArray[np.float64], dsize: _Size, *, flags: int, borderMode: int
) -> NDArray[_Number]: ...
def copyMakeBorder(
    src: NDArray[_Number], top: int, bottom: int, left: int, right: int, borderType: int
) -> NDArray[_Number]: ...
def flip(src: NDArray[_Number], flipCode: int, dst: NDArray[_Number] = ...) -> NDArray[_Number]: ...
def transpose(src: NDArray[_Number]) -> NDArray[_Number]: ...
def boundingRect(array: _Pixels) -> _Rectangle: ...

# Channels.
def cvtColor(src: NDArray[_Number], code: int, dst: NDArray[_Number] = ...) -> NDArray[_Number]: ...
def extractChannel(src: NDArray[_Number], coi: int) -> NDArray[_Number]: ...
def insertChannel(src: NDArray[_Number], dst: NDArray[_Number], coi: int) -> NDArray[_Number]: ...
def merge(mv: Sequence[NDArray[_Number]]) -> NDArray[_Number]: ...
def split(m: NDArray[_Number]) -> Sequence[NDArray[_Number]]: ...

# Arithmetic.
def add(src1: NDArray[_Number], src2: NDArray[_Number], *, dtype: Literal[0]) -> _Pixels: ...

# Windows.
def blur(
    src: NDArray[_Number], ksize: _Size, *, anchor: tuple[int, int] = ..., borderType: int = ...
) -> NDArray[_Number]: ...
def GaussianBlur(src: NDArray[_Number], ksize: _Size, sigmaX: float) -> NDArray[_Number]: ...
def bilateralFilter(src: _Pixels, d: int, sigmaColor: float, sigmaSpace: float) -> _Pixels: ...
def dilate(src: NDArray[_Number], kernel: _Pixels) -> NDArray[_Number]: ...
def erode(src: NDArray[_Number], kernel: _Pixels) -> NDArray[_Number]: ...
def morphologyEx(src: NDArray[_Number], op: int, kernel: _Pixels) -> NDArray[_Number]: ...
def getStructuringElement(shape: int, ksize: _Size) -> _Pixels: ...
def filter2D(
    src: NDArray[Any], ddepth: Literal[6], kernel: NDArray[Any], *, borderType: int
) -> NDArray[np.float64]: ...

# Values.
def LUT(src: _Pixels, lut: NDArray[_Number]) -> NDArray[_Number]: ...
def bitwise_not(src: _Pixels, dst: _Pixels = ...) -> _Pixels: ...
def copyTo(src: NDArray[_Number], mask: _Pixels, dst: NDArray[_Number] = ...) -> NDArray[_Number]: ...
def inRange(src: NDArray[Any], lowerb: float | Sequence[float], upperb: float | Sequence[float]) -> _Pixels: ...
def threshold(src: NDArray[_Number], thresh: float, maxval: float, type: int) -> tuple[float, NDArray[_Number]]: ...
def countNonZero(src: _Pixels) -> int: ...

# Regions.
def connectedComponentsWithStats(
    image: _Pixels, *, connectivity: int
) -> tuple[int, NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]: ...
def distanceTransform(src: _Pixels, distanceType: int, maskSize: int) -> NDArray[np.float32]: ...
def grabCut(
    img: _Pixels,
    mask: _Pixels,
    rect: _Rectangle,
    bgdModel: NDArray[np.float64],
    fgdModel: NDArray[np.float64],
    iterCount: int,
    mode: int,
) -> tuple[_Pixels, NDArray[np.float64], NDArray[np.float64]]: ...
