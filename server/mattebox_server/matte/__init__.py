"""What the network found to alpha, at the model's resolution: one pure module a method."""

from mattebox_server.matte.gaussian import gaussian
from mattebox_server.matte.mask import hard_mask
from mattebox_server.options import MatteMethod, MatteOptions
from mattebox_server.pixels import Pixels

__all__ = ["hard_mask", "make_matte"]


def make_matte(mask: Pixels, options: MatteOptions) -> Pixels:
    """Alpha uint8 (h, w) from a hard mask uint8 (h, w) of 0 and 255."""
    match options.method:
        case MatteMethod.GAUSSIAN:
            return gaussian(mask, options.blur_kernel_px)
        case MatteMethod.NONE:
            return mask
