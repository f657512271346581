"""The list of the networks that are known by name."""

from collections.abc import Iterator
from pathlib import Path

from mattebox_export.cached import state
from mattebox_export.catalogue import CATALOGUE

_ROW = "{:<29} {:<9} {:<13} {:<10} {:>9} {:>6}  {:<10}  {}"


def listing(cache: Path | None) -> Iterator[str]:
    """The lines of a table of all networks.

    Args:
        cache: the cache folder; None without one.
    """
    yield _ROW.format("model", "kind", "licence", "commercial", "weights", "GMACs", "cached", "good at").rstrip()
    for entry in CATALOGUE.values():
        gmacs = "" if entry.gmacs is None else f"{entry.gmacs:g}"
        use, size = "yes" if entry.commercial else "no", f"{entry.source.megabytes} MB"
        row = entry.name, entry.kind, entry.licence, use, size, gmacs, state(cache, entry), entry.about
        yield _ROW.format(*row).rstrip()
