"""`mattebox bench`: a quick measurement of a server's speed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from mattebox import Client, Output
from mattebox._core import DEFAULT_ADDRESS
from mattebox.cli.asking import AsJson
from mattebox.cli.connecting import Address, TlsCa, TlsCertificate, TlsKey, TokenFile, UseTls, connected
from mattebox.results import RemovalResult, Timings

_WARM_UP_CALLS = 3
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def bench(
    *,
    photo: Annotated[Path, typer.Argument(help="The image file that is sent in every call.")],
    calls: Annotated[int, typer.Option("-n", "--calls", min=1, help="Number of calls.")] = 200,
    concurrency: Annotated[int, typer.Option("-c", "--concurrency", min=1, help="Number of calls at a time.")] = 1,
    background: Annotated[str, typer.Option(help="The new background, as for `mattebox remove`.")] = "transparent",
    model: Annotated[str, typer.Option(help="The model's name, as `mattebox models` lists it.")] = "",
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Measures how long a server takes for calls with the same photo.

    Each caller sends its next call when it has the answer to the last one. A slow server therefore gets fewer calls,
    and the slowest answers look rarer than they are in real traffic.
    """
    with connected(address, tls, tls_ca, tls_certificate, tls_key, token_file) as client:
        load = _Load(client, photo.read_bytes(), background, model)
        load.run(_WARM_UP_CALLS, 1)
        load.calls.clear()
        started_s = time.perf_counter()
        load.run(calls, concurrency)
        took_s = time.perf_counter() - started_s
    figures = _figures(load.calls, took_s)
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        from mattebox.cli.tables import show_figures  # noqa: PLC0415 - `ping` runs often and needs no tables

        show_figures({name: _shown(value) for name, value in figures.items()})


@dataclass
class _Load:
    """Callers that each send the next call when they have the answer to the last one."""

    client: Client
    photo: bytes
    background: str
    model: str
    calls: list[tuple[float, RemovalResult]] = field(default_factory=list[tuple[float, RemovalResult]])

    def run(self, calls: int, concurrency: int) -> None:
        """Makes `calls` calls, at most `concurrency` at a time. Raises the first error."""
        left, errors = iter(range(calls)), list[Exception]()
        output = Output(format="png")

        def loop() -> None:
            while not errors and next(left, None) is not None:
                started_s = time.perf_counter()
                try:
                    result = self.client.remove_background(
                        self.photo, background=self.background, model=self.model, output=output
                    )
                except Exception as error:  # noqa: BLE001 - it is raised below, on the main thread
                    errors.append(error)
                else:
                    self.calls.append((time.perf_counter() - started_s, result))

        threads = [threading.Thread(target=loop, daemon=True) for _ in range(min(concurrency, calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def _figures(calls: list[tuple[float, RemovalResult]], took_s: float) -> dict[str, float | str | None]:
    """Returns figures by name and unit. A high quantile is None unless at least ten calls are slower."""
    ordered = sorted(seconds for seconds, _ in calls)
    result = calls[0][1]
    figures: dict[str, float | str | None] = {"calls": len(calls), "photos a second": len(calls) / took_s}
    for name, share in _QUANTILES.items():
        enough = len(ordered) * (1 - share) >= 10 or name == "p50"
        figures[f"{name}, ms"] = 1000 * ordered[int(share * len(ordered))] if enough else None
    figures["slowest, ms"] = 1000 * ordered[-1]
    for stage in fields(Timings):
        spent = [getattr(result.timings, stage.name).total_seconds() for _, result in calls]
        figures[f"server: {stage.name}, median ms"] = 1000 * median(spent)
    server = [seconds - result.timings.total.total_seconds() for seconds, result in calls]
    figures["transport and client, median ms"] = 1000 * median(server)
    figures["ran"] = f"{result.execution.model} on {result.execution.provider}, {result.execution.precision}"
    return figures


def _shown(value: float | str | None) -> str:
    if value is None:
        return "needs more calls"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
