"""What the network found to alpha at the output's resolution: one pure module a method."""

from dataclasses import dataclass

from mattebox_server.imaging.pixels import Pixels, resize
from mattebox_server.matting import grabcut, guided
from mattebox_server.matting.foreground import Layers, Restorer, separate
from mattebox_server.matting.gaussian import gaussian
from mattebox_server.matting.grid import Grid
from mattebox_server.matting.mask import hard_mask
from mattebox_server.request import MatteMethod, MatteOptions

__all__ = ["Matte", "hard_mask", "make_matte"]


@dataclass(frozen=True)
class Matte:
    """A finished matte, and what the colours at its edge are worked out of.

    Args:
        alpha: uint8 (H, W), 0 background, 255 subject.
        grid: over the photo, if the method works on one.
        layers: the photo's own colours on both sides of the edge, if they were asked for.
    """

    alpha: Pixels
    grid: Grid | None = None
    layers: Layers | None = None

    def restorer(self) -> Restorer | None:
        """What takes the old background out of mixed colours, if that was asked for."""
        if self.layers is None or self.grid is None:
            return None
        return Restorer.of(self.alpha, self.layers, self.grid)


def make_matte(photo: Pixels, probability: Pixels, mask: Pixels, options: MatteOptions) -> Matte:
    """The matte of a photo.

    Args:
        photo: uint8 (H, W, 3) BGR.
        probability: uint8 (h, w), round(255 x probability of the subject), over the same part of the scene.
        mask: uint8 (h, w), 255 where a kept class is the likeliest, else 0.
        options: the method and its parameters.
    """
    height, width = photo.shape[:2]
    match options.method:
        case MatteMethod.GAUSSIAN:
            return Matte(resize(gaussian(mask, options.blur_kernel_px), width, height))
        case MatteMethod.NONE:
            return Matte(resize(mask, width, height))
        case MatteMethod.GUIDED:
            grid, method = Grid.over(width, height, guided.CELLS), guided.guided
        case MatteMethod.GRABCUT:
            grid, method = Grid.over(width, height, grabcut.CELLS), grabcut.grabcut
    cells = grid.means(photo)
    linear = method(cells, grid.sample(probability), grid.sample(guided.sharpen(probability)))
    layers = None if options.keep_edge_colors else separate(cells, linear.alpha)
    return Matte(linear.render(photo, grid), grid, layers)
