"""`mattebox remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mattebox import Matte, Output
from mattebox._core import DEFAULT_ADDRESS
from mattebox.cli.connecting import Address, TlsCa, TlsCertificate, TlsKey, TokenFile, UseTls, connected
from mattebox.cli.jobs import STANDARD, SUFFIXES, Job, Naming, goes_into_a_folder, plan_folder
from mattebox.cli.reporting import Report
from mattebox.cli.running import Run, finish, remove_one, watch_folders
from mattebox.options import ImageFormat, MatteMethod, RemovalOptions, Size

NAME = "{stem}.{suffix}"


def remove(
    *,
    photos: Annotated[list[str], typer.Argument(help="Image files, folders, patterns, or - for standard input.")],
    out: Annotated[str, typer.Option("-o", "--out", help="File to write, folder for several, or - (standard output).")],
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
        ImageFormat | None, typer.Option("--format", help="Default: by the suffix of --out; png in a folder.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.")] = None,
    size: Annotated[str, typer.Option(help="original, model, or the longest side in pixels.")] = "original",
    crop: Annotated[int | None, typer.Option(help="Cut to the subject and so many pixels around it.")] = None,
    alpha: Annotated[
        str | None, typer.Option(help="Also write the matte, as PNG: a file, or in a folder {stem}-alpha.png.")
    ] = None,
    alpha_only: Annotated[bool, typer.Option("--alpha-only", help="Write the matte instead of a composite.")] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Names in a folder: {stem} and {old_suffix} of the photo, {suffix}.", show_default=NAME),
    ] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out what has a result.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Photos under way at a time.")] = 8,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what comes into folders.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each photo, and one for all.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds until a photo is given up.")] = 60,
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Removes the background of photos: of one, or of all in folders, some at a time."""
    with connected(address, tls, tls_ca, tls_certificate, tls_key, token_file) as client:
        folder = goes_into_a_folder(photos, out) or watch
        if alpha == STANDARD:
            raise ValueError("--alpha -: name a file")
        if out == STANDARD and (as_json or folder):
            raise ValueError("--out -: is for one photo, without --json and --watch")
        format_ = image_format or ("png" if folder else _format(out))
        output = Output(format_, quality, _size(size), crop, alpha is not None, alpha_only)
        options = RemovalOptions(model, keep or (), Matte(matte, blur_kernel, keep_edge_colors), background, output)
        run = Run(client, options, concurrency, timeout)
        if watch:
            watch_folders(run, photos, Path(out), Naming(name or NAME, alpha, format_), skip_existing, as_json)
        elif folder:
            plan = plan_folder(photos, Path(out), Naming(name or NAME, alpha, format_), skip_existing).checked()
            finish(run, Report(len(plan.jobs), as_json, several=True), plan)
        elif name is not None:
            raise ValueError(f"--name {name}: is for a folder, and --out {out} is a file")
        else:
            remove_one(run, Report(1, as_json, several=False), Job.of_one(photos[0], out, alpha), skip_existing)


def _format(out: str) -> ImageFormat:
    suffix = Path(out).suffix.lower()
    if out == STANDARD or suffix in SUFFIXES:
        return SUFFIXES.get(suffix, "png")
    raise ValueError(f"--out {out}: what format? Take a suffix of {', '.join(SUFFIXES)}, or say --format")


def _size(word: str) -> Size:
    if word.isdecimal():
        return int(word)
    if word == "original":
        return "original"
    if word == "model":
        return "model"
    raise ValueError(f"--size {word}: must be original, model, or a number of pixels")
