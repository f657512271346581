"""The figures of a fault scenario, their goals, and the table that shows both."""

from dataclasses import dataclass, field
from typing import NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """One figure of a scenario.

    Attributes:
        figure: name of the figure, with its unit.
        value: measured value, four digits.
        goal: bound of the value in words; "" for a figure without a goal.
        met: whether the value is within the bound; None for a figure without a goal.
    """

    figure: str
    value: str
    goal: str
    met: bool | None


@dataclass
class Report:
    """All figures of one scenario.

    Args:
        name: name of the scenario.
        rows: the figures, in the order in which they were measured.
    """

    name: str
    rows: list[Row] = field(default_factory=list[Row])

    def add(self, figure: str, value: float, most: float | None = None, least: float | None = None) -> None:
        """Adds a figure, with an upper or a lower bound where it has a goal."""
        if most is not None:
            self.rows.append(Row(figure, f"{value:.4g}", f"at most {most:g}", value <= most))
        elif least is not None:
            self.rows.append(Row(figure, f"{value:.4g}", f"at least {least:g}", value >= least))
        else:
            self.rows.append(Row(figure, f"{value:.4g}", "", None))

    @property
    def missed(self) -> list[str]:
        """The names of the figures that missed their goals."""
        return [row.figure for row in self.rows if row.met is False]

    def show(self) -> None:
        """Prints the table of the figures."""
        table = Table("", "measured", "goal", "", title=self.name, box=SIMPLE)
        for figure, value, goal, met in self.rows:
            table.add_row(figure, value, goal, "" if met is None else "met" if met else "[bold]missed[/bold]")
        Console().print(table)
