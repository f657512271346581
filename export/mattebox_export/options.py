"""Words that the command line and the graph share. Imports nothing heavy: `--list` and `--help` need no onnx."""

from typing import Literal

Activation = Literal["none", "sigmoid", "minmax"]
"""What makes probabilities of a saliency network's values."""

Triple = tuple[float, float, float]
"""Red, green, blue."""
