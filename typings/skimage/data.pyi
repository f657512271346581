"""The part of scikit-image that Mattebox uses; its own functions are untyped."""

import numpy as np
from numpy.typing import NDArray

def astronaut() -> NDArray[np.uint8]: ...
def chelsea() -> NDArray[np.uint8]: ...
