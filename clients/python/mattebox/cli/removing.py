"""`mattebox remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mattebox import Matte, Output
from mattebox._core import DEFAULT_ADDRESS
from mattebox.cli.connecting import Address, TlsCa, TlsCertificate, TlsKey, TokenFile, UseTls, connected
from mattebox.cli.jobs import STANDARD, SUFFIXES, Job, Naming, goes_into_a_folder, plan_folder, usual_out
from mattebox.cli.reporting import Report
from mattebox.cli.running import Run, finish, remove_one, watch_folders
from mattebox.options import ImageFormat, MatteMethod, RemovalOptions, Size

NAME = "{stem}.{suffix}"


def remove(
    *,
    photos: Annotated[list[str], typer.Argument(help="Image files, folders or patterns; - reads standard input.")],
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            help="The file to write, or a folder for several photos; - writes to standard output."
            " Default: NAME.mattebox.png beside the one photo NAME.",
        ),
    ] = None,
    background: Annotated[
        str,
        typer.Option(
            help="The new background: a colour's name, #rrggbb, transparent, blur, blur:SIGMA or the path of a picture."
        ),
    ] = "white",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="The label of a subject; repeat the option for several. Default: everything but the background."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The model's name, as `mattebox models` lists it. Default: the server's default model.")
    ] = "",
    matte: Annotated[MatteMethod | None, typer.Option(help="The method that makes the matte. Default: guided.")] = None,
    blur_kernel: Annotated[
        int | None, typer.Option(help="The side of the kernel in pixels, odd; for --matte gaussian.")
    ] = None,
    keep_edge_colors: Annotated[
        bool,
        typer.Option(
            "--keep-edge-colors",
            help="Keep the photo's colours at the edge of the subject, with a trace of the old background.",
        ),
    ] = False,
    image_format: Annotated[
        ImageFormat | None,
        typer.Option("--format", help="The format of the results. Default: by the suffix of --out; png in a folder."),
    ] = None,
    quality: Annotated[int | None, typer.Option(help="The quality of jpeg and webp, 1 to 100.")] = None,
    size: Annotated[
        str,
        typer.Option(help="The size: original, model (the size that the network sees) or the longest side in pixels."),
    ] = "original",
    crop: Annotated[
        int | None, typer.Option(help="Crop the results to the subject with this margin in pixels.")
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(help="Also write the matte to this PNG file; in a folder, a name such as {stem}-alpha.png."),
    ] = None,
    alpha_only: Annotated[bool, typer.Option("--alpha-only", help="Write the matte instead of a composite.")] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help="The names of results in a folder: the photo's {stem} and {old_suffix}, the format's {suffix}.",
            show_default=NAME,
        ),
    ] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Skip photos whose results exist.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of photos under way at a time.")] = 8,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Keep running, and take photos that are added to the folders or change in them."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each photo, and one with the totals.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which a photo is given up.")] = 60,
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
) -> None:
    """Removes the background of one photo, or of all photos in folders."""
    with connected(address, tls, tls_ca, tls_certificate, tls_key, token_file) as client:
        out = usual_out(photos, image_format or "png", watch) if out is None else out
        folder = goes_into_a_folder(photos, out) or watch
        if alpha == STANDARD:
            raise ValueError("--alpha -: the matte needs a file of its own")
        if out == STANDARD and (as_json or folder):
            raise ValueError("--out -: standard output is for one photo, without --json and --watch")
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
            raise ValueError(f"--name {name}: names files in a folder, but --out {out} is a file")
        else:
            remove_one(run, Report(1, as_json, several=False), Job.of_one(photos[0], out, alpha), skip_existing)


def _format(out: str) -> ImageFormat:
    suffix = Path(out).suffix.lower()
    if out == STANDARD or suffix in SUFFIXES:
        return SUFFIXES.get(suffix, "png")
    raise ValueError(f"--out {out}: the suffix names no format: use {', '.join(SUFFIXES)}, or --format")


def _size(word: str) -> Size:
    if word.isdecimal():
        return int(word)
    if word == "original":
        return "original"
    if word == "model":
        return "model"
    raise ValueError(f"--size {word}: must be original, model, or a number of pixels")
