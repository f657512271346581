"""Command line of the client: `mattebox remove`, `models`, `ping`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox import Client, InvalidRequest, Matte, MatteboxError, Output, Tls, Unavailable
from mattebox.options import ImageFormat, MatteMethod, Size
from mattebox.results import RemovalResult

_SUFFIXES: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

app = typer.Typer(
    help="Removes the background of photos, through a Mattebox server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

Address = Annotated[str, typer.Option(envvar="MATTEBOX_ADDRESS", help="HOST:PORT of the server; several by commas.")]
UseTls = Annotated[bool, typer.Option("--tls", envvar="MATTEBOX_CLIENT_TLS", help="Encrypt.")]
Ca = Annotated[
    Path | None, typer.Option("--tls-ca", envvar="MATTEBOX_CLIENT_TLS_CA", help="Authorities to trust, PEM; with TLS.")
]
Certificate = Annotated[
    Path | None,
    typer.Option("--tls-certificate", envvar="MATTEBOX_CLIENT_TLS_CERTIFICATE", help="The client's own, PEM."),
]
Key = Annotated[
    Path | None, typer.Option("--tls-key", envvar="MATTEBOX_CLIENT_TLS_KEY", help="Of the certificate, PEM.")
]
TokenFile = Annotated[
    Path | None, typer.Option(envvar="MATTEBOX_CLIENT_TOKEN_FILE", help="File that holds the token for the server.")
]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds until a call is given up.")]


@app.command()
def remove(
    photo: Annotated[str, typer.Argument(help="Image file, or - for standard input.")],
    out: Annotated[str, typer.Option("-o", "--out", help="File to write, or - for standard output.")],
    background: Annotated[
        str, typer.Option(help="Colour name, #rrggbb, transparent, blur, blur:SIGMA, or a picture's path.")
    ] = "white",
    keep: Annotated[list[str] | None, typer.Option(help="Label of what is the subject; repeat it for several.")] = None,
    model: Annotated[str, typer.Option(help="Model, as `mattebox models` names it.")] = "",
    matte: Annotated[MatteMethod | None, typer.Option(help="How the matte is made.")] = None,
    blur_kernel: Annotated[int | None, typer.Option(help="Kernel of the gaussian matte in pixels, odd.")] = None,
    keep_edge_colors: Annotated[
        bool, typer.Option("--keep-edge-colors", help="Leave the old background's colour in the edge.")
    ] = False,
    image_format: Annotated[
        ImageFormat | None, typer.Option("--format", help="Default: by the suffix of --out.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.")] = None,
    size: Annotated[str, typer.Option(help="original, model, or the longest side in pixels.")] = "original",
    crop: Annotated[int | None, typer.Option(help="Cut to the subject and so many pixels around it.")] = None,
    alpha: Annotated[Path | None, typer.Option(help="Also write the matte, as PNG, to this file.")] = None,
    alpha_only: Annotated[bool, typer.Option("--alpha-only", help="Write the matte instead of a composite.")] = False,
    address: Address = "127.0.0.1:50051",
    tls: UseTls = False,
    tls_ca: Ca = None,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
    token_file: TokenFile = None,
    timeout: Timeout = 60,
) -> None:
    """Removes the background of one photo."""
    with (
        _errors_to_exit(address),
        _connect(address, _tls(tls, tls_ca, tls_certificate, tls_key), token_file) as client,
    ):
        if str(alpha) == "-":
            raise ValueError("--alpha -: name a file")
        result = client.remove_background(
            _standard(sys.stdin, "standard input").read() if photo == "-" else photo,
            model=model,
            keep=keep or (),
            matte=Matte(matte, blur_kernel, keep_edge_colors),
            background=background,
            output=Output(
                format=_format(image_format, out),
                quality=quality,
                size=_size(size),
                crop=crop,
                include_alpha=alpha is not None,
                alpha_only=alpha_only,
            ),
            timeout=timeout,
        )
        _write(result, out, alpha)


@app.command()
def models(
    address: Address = "127.0.0.1:50051",
    tls: UseTls = False,
    tls_ca: Ca = None,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
    token_file: TokenFile = None,
    timeout: Timeout = 10,
) -> None:
    """Lists the server's models."""
    with (
        _errors_to_exit(address),
        _connect(address, _tls(tls, tls_ca, tls_certificate, tls_key), token_file) as client,
    ):
        found = client.models(timeout=timeout)
    table = Table("model", "kind", "provider", "precision", "trained", "licence", box=SIMPLE)
    for model in found.models:
        name = f"{model.name} (default)" if model.name == found.default else model.name
        trained = "no" if model.untrained else "yes"
        table.add_row(name, model.kind, model.provider, model.precision, trained, model.licence)
    console = Console()
    console.print(table)
    for model in found.models:
        console.print(f"{model.name} finds: {', '.join(model.labels)}", highlight=False)


@app.command()
def ping(
    address: Address = "127.0.0.1:50051",
    tls: UseTls = False,
    tls_ca: Ca = None,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
    token_file: TokenFile = None,
    timeout: Timeout = 5,
) -> None:
    """Exits with 0 if the server answers requests now, else with 1."""
    with (
        _errors_to_exit(address),
        _connect(address, _tls(tls, tls_ca, tls_certificate, tls_key), token_file) as client,
    ):
        ready = client.ready(timeout=timeout)
    typer.echo(f"{address}: {'serving' if ready else 'not serving'}")
    raise typer.Exit(0 if ready else 1)


def _connect(address: str, tls: bool | Tls, token_file: Path | None) -> Client:
    token = None if token_file is None else token_file.read_text(encoding="utf-8").strip()
    return Client(address.split(",") if "," in address else address, tls=tls, token=token)


def _tls(tls: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> bool | Tls:
    """What any of the options asks for."""
    return Tls(ca, certificate, key) if ca or certificate or key else tls


@contextmanager
def _errors_to_exit(address: str) -> Generator[None]:
    """Turns what a call can raise into one readable line and exit code 1; wrong options into 2."""
    try:
        yield
    except InvalidRequest as error:
        for violation in error.violations:
            typer.echo(f"mattebox: {violation.field}: {violation.description}", err=True)
        if not error.violations:
            typer.echo(f"mattebox: {error}", err=True)
        raise typer.Exit(2) from error
    except Unavailable as error:
        typer.echo(f"mattebox: no answer from {address}: {error} (is mattebox-server running there?)", err=True)
        raise typer.Exit(1) from error
    except MatteboxError as error:
        hint = f" (request {error.request_id})" if error.request_id else ""
        typer.echo(f"mattebox: {error.code}: {error}{hint}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"mattebox: {error.filename or 'standard output'}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from error
    except (ValueError, TypeError) as error:
        typer.echo(f"mattebox: {error}", err=True)
        raise typer.Exit(2) from error


def _write(result: RemovalResult, out: str, alpha: Path | None) -> None:
    if out == "-":
        pipe = _standard(sys.stdout, "standard output")
        pipe.write(result.image)
        pipe.flush()
    else:
        result.save(out)
    if alpha is not None and result.alpha is not None:
        alpha.write_bytes(result.alpha)
    found = ", ".join(f"{subject.label} {subject.coverage:.0%}" for subject in result.subjects) or "nothing"
    took = f"{result.timings.total.total_seconds() * 1000:.0f} ms on {result.execution.provider}"
    typer.echo(f"{out}: {result.width}x{result.height} {result.format}, found {found}, {took}", err=True)


def _format(word: ImageFormat | None, out: str) -> ImageFormat:
    if word is not None:
        return word
    suffix = Path(out).suffix.lower()
    if out == "-" or suffix in _SUFFIXES:
        return _SUFFIXES.get(suffix, "png")
    raise ValueError(f"--out {out}: what format? Take a suffix of {', '.join(_SUFFIXES)}, or say --format")


def _size(word: str) -> Size:
    if word.isdecimal():
        return int(word)
    if word == "original":
        return "original"
    if word == "model":
        return "model"
    raise ValueError(f"--size {word}: must be original, model, or a number of pixels")


def _standard(stream: TextIO | None, name: str) -> BinaryIO:
    """Daemons close standard streams; then Python has None in their place."""
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), name)
    return stream.buffer
