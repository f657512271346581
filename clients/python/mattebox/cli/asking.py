"""`mattebox models` and `mattebox ping`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from mattebox import Client
from mattebox._core import DEFAULT_ADDRESS
from mattebox.cli.connecting import Address, TlsCa, TlsCertificate, TlsKey, TokenFile, UseTls, connected
from mattebox.errors import DeadlineExceeded

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def models(
    *,
    as_json: AsJson = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which the call is given up.")] = 10,
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Lists the models of the server and the labels that they recognise."""
    with connected(address, tls, tls_ca, tls_certificate, tls_key, token_file) as client:
        found = client.models(timeout=timeout)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
    else:
        from mattebox.cli.tables import show_models  # noqa: PLC0415 - `ping` runs often and needs no tables

        show_models(found)


def ping(
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is not ready yet.")] = 0,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which the call is given up.")] = 5,
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Exits with 0 if the server answers requests now, else with 1."""
    with connected(address, tls, tls_ca, tls_certificate, tls_key, token_file) as client:
        reason = _why_not(client, wait, timeout)
    if not quiet:
        typer.echo(f"{address}: {'serving' if reason is None else f'not serving: {reason}'}")
    raise typer.Exit(0 if reason is None else 1)


def _why_not(client: Client, wait_s: float, timeout_s: float) -> str | None:
    try:
        if wait_s:
            client.wait_until_ready(timeout=wait_s)
            return None
        return client.why_not_ready(timeout=timeout_s)
    except DeadlineExceeded as error:
        return str(error)
