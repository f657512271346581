"""The values of options of `mattebox-export`: sizes, class names and colours as words on a command line."""

from fractions import Fraction
from pathlib import Path

from mattebox_export.catalogue import VOC_LABELS, Triple
from mattebox_server.spec import MAX_LABELS, Letterbox, Resize, ShortSide, Stretch

_MAX_ASPECT = 4  # with short_side, a photo longer than 4:1 gets a smaller short side, not an ever larger long side
_DEFAULT_SHORT_SIDE_PX = 450  # as in the recipe that the project began with
_MIN_STD, _MAX_STD = 1e-3, 10


def parse_resize(text: str) -> Resize:
    """Parses a policy such as short_side:450, stretch:320x320 or letterbox:512x512 (width x height, in pixels).

    Raises:
        ValueError: it is none of these, or a side is out of range.
    """
    policy, _, size = text.partition(":")
    width, _, height = size.partition("x")
    try:
        if policy == "short_side":
            return ShortSide(short_side_px=int(size), max_long_side_px=_MAX_ASPECT * int(size))
        if policy == "stretch":
            return Stretch(width_px=int(width), height_px=int(height))
        if policy == "letterbox":
            return Letterbox(width_px=int(width), height_px=int(height))
        raise ValueError(policy)
    except ValueError as error:
        raise ValueError(
            f"--resize {text}: must be like short_side:450, stretch:320x320 or letterbox:512x512"
        ) from error


def default_short_side() -> Resize:
    """The policy for a network that takes any size: a short side of 450 pixels."""
    return parse_resize(f"short_side:{_DEFAULT_SHORT_SIDE_PX}")


def parse_labels(text: str) -> tuple[str, ...]:
    """Parses class names: `voc`, names separated by commas, or a file with one name on each line.

    Raises:
        ValueError: there is no such file, or the number of names is out of range.
    """
    if text == "voc":
        return VOC_LABELS
    try:
        names = text.split(",") if "," in text else Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels {text}: no such list, and no such file: {error}") from error
    labels = tuple(name.strip() for name in names if name.strip())
    if not 2 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"--labels: {len(labels)} names, must be 2 to {MAX_LABELS}")
    return labels


def parse_triple(text: str, option: str) -> Triple:
    """Parses a mean or a standard deviation of red, green and blue.

    Args:
        text: three numbers or fractions, separated by commas.
        option: `--mean` or `--std`, which have different ranges.

    Raises:
        ValueError: the text is not three numbers, or one is out of range.
    """
    try:
        red, green, blue = (float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{option} {text}: must be three numbers, such as 0.5,0.5,0.5") from error
    if option == "--std" and not all(_MIN_STD <= value <= _MAX_STD for value in (red, green, blue)):
        raise ValueError(
            f"--std {text}: must be {_MIN_STD} to {_MAX_STD}; if it is of values in [0, 255], divide by 255"
        )
    if option == "--mean" and not all(-1 <= value <= 1 for value in (red, green, blue)):
        raise ValueError(f"--mean {text}: must be -1 to 1; if it is of values up to 255, divide by 255")
    return red, green, blue
