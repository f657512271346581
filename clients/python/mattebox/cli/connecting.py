"""What all commands share: how to reach the server, and what becomes of errors."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from mattebox import Client, DeadlineExceeded, InvalidRequest, MatteboxError, Tls, Unavailable

INTERRUPTED = 130
_TERMINATED = 143
# What gRPC says where one side speaks TLS and the other doesn't.
_TLS_SIGNS = ("SSL", "Ssl", "WRONG_VERSION_NUMBER", "TSI_PROTOCOL", "Failed parsing HTTP/2", "Socket closed")


@dataclass(frozen=True)
class Connection:
    """The server that a command talks to.

    Args:
        address: as it was given; several by commas.
        tls: see `Client`.
        token_file: holds the token.
    """

    address: str
    tls: bool | Tls
    token_file: Path | None

    def open(self) -> Client:
        """Raises OSError and ValueError."""
        token = None if self.token_file is None else self.token_file.read_text(encoding="utf-8").strip()
        return Client(self.address.split(",") if "," in self.address else self.address, tls=self.tls, token=token)


def _connection(
    address: Annotated[
        str, typer.Option(envvar="MATTEBOX_ADDRESS", help="HOST:PORT of the server; several by commas.")
    ] = "127.0.0.1:50051",
    tls: Annotated[bool, typer.Option("--tls", envvar="MATTEBOX_CLIENT_TLS", help="Encrypt.")] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", envvar="MATTEBOX_CLIENT_TLS_CA", help="Authorities to trust, PEM; with TLS."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option("--tls-certificate", envvar="MATTEBOX_CLIENT_TLS_CERTIFICATE", help="The client's own, PEM."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", envvar="MATTEBOX_CLIENT_TLS_KEY", help="Of the certificate, PEM.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="MATTEBOX_CLIENT_TOKEN_FILE", help="File that holds the token for the server.")
    ] = None,
) -> Connection:
    asked = Tls(tls_ca, tls_certificate, tls_key) if tls_ca or tls_certificate or tls_key else tls
    return Connection(address, asked, token_file)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of the connection, which it takes as its first argument, and ends its errors."""
    ours = inspect.signature(_connection).parameters
    _, *theirs = inspect.signature(command).parameters.values()

    @functools.wraps(command)
    def run(**words: Any) -> None:
        own = {name: words.pop(name) for name in ours}
        with errors_to_exit(own["address"]):
            command(_connection(**own), **words)

    # typer reads a command's options off its signature and its annotations.
    hints = get_type_hints(command, include_extras=True) | get_type_hints(_connection, include_extras=True)
    options = [
        option.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[option.name])
        for option in (*theirs, *ours.values())
    ]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # pyright: ignore
    run.__annotations__ = {option.name: hints[option.name] for option in options} | {"return": None}
    return run


@contextmanager
def errors_to_exit(address: str) -> Generator[None]:
    """Turns what a command can raise into readable lines and an exit code: 2 for what is wrong in itself, else 1."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (MatteboxError, OSError, ValueError, TypeError) as error:
        lines, code = _told(error, address)
        for line in lines:
            typer.echo(f"mattebox: {line}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt:
        typer.echo("mattebox: interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def describe(error: BaseException) -> str:
    """In one line."""
    if isinstance(error, MatteboxError):
        hint = f" (request {error.request_id})" if error.request_id else ""
        return f"{error}{hint}" if isinstance(error, InvalidRequest) else f"{error.code}: {error}{hint}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}"
    return str(error)


def _told(error: Exception, address: str) -> tuple[list[str], int]:
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
        return "does it speak TLS, and is --tls or --tls-ca given only if it does?"
    return "is mattebox-server running there?"


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """As for Ctrl-C: what runs is cancelled, what is half written is removed."""
    raise SystemExit(_TERMINATED)
