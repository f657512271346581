"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox.results import Models


def show_models(found: Models) -> None:
    """Prints the models of a server and the labels that they recognise."""
    table = Table("model", "kind", "provider", "precision", "trained", "licence", box=SIMPLE)
    for model in found.models:
        name = f"{model.name} (default)" if model.name == found.default else model.name
        trained = "no" if model.untrained else "yes"
        licence = f"{model.licence}, not for commercial use" if model.non_commercial else model.licence
        table.add_row(name, model.kind, model.provider, model.precision, trained, licence)
    console = Console()
    console.print(table)
    for model in found.models:
        console.print(f"{model.name} recognises: {', '.join(model.labels)}", highlight=False)


def show_figures(figures: Mapping[str, str]) -> None:
    """Prints figures as a table of names and values."""
    table = Table(box=SIMPLE, show_header=False)
    for name, value in figures.items():
        table.add_row(name, value)
    Console().print(table)
