"""Makes alpha at the photo's resolution from the answer of a network. Each method is a module of pure functions."""

from dataclasses import dataclass

from mattebox_server.imaging.pixels import Pixels, resize
from mattebox_server.matting import grabcut, guided
from mattebox_server.matting.foreground import Layers, Restorer, separate
from mattebox_server.matting.gaussian import gaussian
from mattebox_server.matting.grid import Grid
from mattebox_server.request import MatteMethod, MatteOptions


@dataclass(frozen=True)
class Matte:
    """A finished matte, and the layers from which the colours at its edge are estimated.

    Args:
        alpha: uint8 (H, W), 0 background, 255 subject.
        grid: the grid over the photo; None if the method works without one.
        layers: the colours of subject and background; None if the request keeps the photo's edge colours.
    """

    alpha: Pixels
    grid: Grid | None = None
    layers: Layers | None = None

    def restorer(self) -> Restorer | None:
        """Returns the estimate that removes the old background from mixed colours; None if the request keeps them."""
        if self.layers is None or self.grid is None:
            return None
        return Restorer.of(self.alpha, self.layers, self.grid)


def make_matte(photo: Pixels, probability: Pixels, mask: Pixels, options: MatteOptions) -> Matte:
    """Makes the matte of a photo.

    Args:
        photo: the photo, uint8 (H, W, 3) BGR.
        probability: round(255 x probability of the subject), uint8 (h, w), over the whole photo.
        mask: uint8 (h, w), 255 where a kept class is the likeliest, and 0 elsewhere.
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
