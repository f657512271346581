"""The command line `mattebox`."""

import typer

from mattebox.cli.asking import models, ping
from mattebox.cli.benching import bench
from mattebox.cli.removing import remove

app = typer.Typer(
    help="Removes the background of photos with a Mattebox server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for _command in (remove, models, ping, bench):
    app.command()(_command)
