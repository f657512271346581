"""The options of the connection, which all commands share, and how errors become lines and exit codes."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from mattebox import Client, DeadlineExceeded, InvalidRequest, MatteboxError, Tls, Unavailable

INTERRUPTED = 130
_TERMINATED = 143
# gRPC's texts for an error where one side speaks TLS and the other doesn't.
_TLS_SIGNS = ("SSL", "Ssl", "WRONG_VERSION_NUMBER", "TSI_PROTOCOL", "Failed parsing HTTP/2", "Socket closed")

_PANEL = "Connection"  # the heading in each command's help

Address = Annotated[
    str,
    typer.Option(
        envvar="MATTEBOX_ADDRESS",
        rich_help_panel=_PANEL,
        help="HOST:PORT of the server; commas separate several servers.",
    ),
]
UseTls = Annotated[
    bool, typer.Option("--tls", envvar="MATTEBOX_CLIENT_TLS", rich_help_panel=_PANEL, help="Encrypt the connection.")
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        envvar="MATTEBOX_CLIENT_TLS_CA",
        rich_help_panel=_PANEL,
        help="PEM file of the authorities to trust; implies --tls.",
    ),
]
TlsCertificate = Annotated[
    Path | None,
    typer.Option(
        envvar="MATTEBOX_CLIENT_TLS_CERTIFICATE",
        rich_help_panel=_PANEL,
        help="PEM file of the client's certificate; implies --tls.",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        envvar="MATTEBOX_CLIENT_TLS_KEY", rich_help_panel=_PANEL, help="PEM file of the certificate's private key."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="MATTEBOX_CLIENT_TOKEN_FILE", rich_help_panel=_PANEL, help="File that holds the token for the server."
    ),
]


@contextmanager
def connected(
    address: str, tls: bool, tls_ca: Path | None, tls_certificate: Path | None, tls_key: Path | None, token: Path | None
) -> Generator[Client]:
    """Opens a client for the work of a command, whose errors become readable lines and an exit code.

    Args:
        address: the server's address, or several with commas between them.
        tls: whether to encrypt the connection; each of the three files implies it.
        tls_ca: PEM file of the authorities to trust.
        tls_certificate: PEM file of the client's certificate.
        tls_key: PEM file of the certificate's private key.
        token: file that holds the token.

    Raises:
        typer.Exit: the work failed: with code 2 if what the user wrote is wrong, 130 after Ctrl-C, else 1.
        SystemExit: SIGTERM arrived.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        own_tls = Tls(tls_ca, tls_certificate, tls_key) if tls_ca or tls_certificate or tls_key else tls
        secret = None if token is None else token.read_text(encoding="utf-8").strip()
        with Client(address.split(",") if "," in address else address, tls=own_tls, token=secret) as client:
            yield client
    except (MatteboxError, OSError, ValueError, TypeError) as error:
        lines, code = _explain(error, address)
        for line in lines:
            typer.echo(f"mattebox: {line}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt:
        typer.echo("mattebox: interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def describe(error: BaseException) -> str:
    """Returns an error's text in one line."""
    if isinstance(error, MatteboxError):
        hint = f" (request {error.request_id})" if error.request_id else ""
        return f"{error}{hint}" if isinstance(error, InvalidRequest) else f"{error.code}: {error}{hint}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}"
    return str(error)


def _explain(error: Exception, address: str) -> tuple[list[str], int]:
    if isinstance(error, InvalidRequest):
        named = [f"{violation.field}: {violation.description}" for violation in error.violations]
        return named or [str(error)], 2
    if isinstance(error, Unavailable):
        return [f"no answer from {address}: {error} ({_hint(str(error))})"], 1
    if isinstance(error, DeadlineExceeded) and not error.request_id:
        return [f"no answer from {address} in time: {error}"], 1
    if isinstance(error, MatteboxError):
        return [describe(error)], 1
    if isinstance(error, OSError):
        return [f"{error.filename or 'standard output'}: {describe(error)}"], 1
    return [str(error)], 2


def _hint(text: str) -> str:
    if any(sign in text for sign in _TLS_SIGNS):
        return "does the server use TLS? --tls or --tls-ca is needed if it does, and must not be given if it doesn't"
    return "is mattebox-server running there?"


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the process as Ctrl-C does: calls are cancelled, and files that are half written are removed."""
    raise SystemExit(_TERMINATED)
