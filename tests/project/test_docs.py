"""The documentation: its examples run as they stand against a real server, and it leaves nothing out."""

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer.main

import images
import mattebox
from authority import Authority
from mattebox import errors
from mattebox.cli import app
from mattebox.options import COLORS
from mattebox.v1 import background_removal_pb2 as pb
from mattebox_server.local import LocalServer
from mattebox_server.settings import Settings
from node_package import PACKAGE, npm, run

__all__ = ["npm"]  # a fixture

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
SHOWN = ("index.md", "quickstart.md", "options.md", "streams.md", "errors.md", "deadlines.md", "scaling.md")
OPTION_MESSAGES = (
    pb.RemoveBackgroundRequest, pb.RawImage, pb.Matte, pb.Background, pb.Color, pb.Blur, pb.Output, pb.Crop,
)  # fmt: skip

GIVEN_IN_TYPESCRIPT = """
import { Background, Client } from "@mattebox/client";
declare const client: Client;
declare const photos: string[];
declare const token: string;
"""

# What the examples of a page print, among other things.
PRINTED = {
    "quickstart.md": ("red ", "(64, 96, 3) (96, 64)"),
    "streams.md": ("0 96", "1 96"),
    "errors.md": ("output.quality ", "output.crop"),
    "deadlines.md": ("True",),
}

# `<!-- not run: why -->` before a block excuses it. Blocks in tabs are indented.
_BLOCK = re.compile(
    r"^ *<!-- not run: (?P<excuse>[^\n]+) -->\n+(?= *```)"
    r"|^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_FENCE = re.compile(r"^ *```", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `excuse` says why it can't be tried."""

    line: int
    language: str
    code: str
    excuse: str | None


def blocks(page: str) -> Iterator[Block]:
    text, excuse = (DOCS / page).read_text(), None
    for found in _BLOCK.finditer(text):
        if found["language"] is None:
            excuse = found["excuse"]
            continue
        line = text.count("\n", 0, found.start()) + 2  # of the first line of code
        yield Block(line, found["language"], dedent(found["code"]), excuse)
        excuse = None


def tried(page: str, language: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == language and block.excuse is None]


def at_hand(code: str, server: LocalServer) -> str:
    """With a free port, and with the networks at hand in place of those that a reader has."""
    code = code.replace("127.0.0.1:50051", server.address).replace("deeplabv3_resnet101", "colour")
    return code.replace('"person"', '"red"').replace('"dog"', '"green"')


def test_blocks_are_found() -> None:
    for page in PAGES:
        fences = len(_FENCE.findall((DOCS / page).read_text()))
        assert len(list(blocks(page))) * 2 == fences, page
    assert all(any(tried(page, "python")) for page in SHOWN)


@pytest.mark.parametrize("page", [page for page in PAGES if tried(page, "python")])
def test_python(
    page: str,
    server: LocalServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A page is read from its top: its blocks share their names."""
    photo = images.encode(images.scene(), "JPEG")
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "beach.jpg", "photos/first.jpg", "photos/second.jpg"):
        (tmp_path / name).write_bytes(photo)
    (tmp_path / "ca.pem").write_bytes(Authority().certificate)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in tried(page, "python"):
        code = "\n" * (block.line - 1) + at_hand(block.code, server)
        exec(compile(code, DOCS / page, "exec"), names)
    for value in names.values():
        if isinstance(value, mattebox.Client):
            value.close()
    printed = capsys.readouterr().out
    assert [words for words in PRINTED.get(page, ()) if words not in printed] == []


@pytest.mark.parametrize("page", [page for page in PAGES if tried(page, "sh")])
def test_flags_of_command_lines_exist(page: str) -> None:
    for block in tried(page, "sh"):
        for line in block.code.splitlines():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "mattebox":
                flags = flags_of(words[0])
            elif program == "mattebox-server":
                flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
            else:
                continue
            assert {word for word in words if re.match("--?[a-z]", word)} <= flags, f"{page}:{block.line}"


def test_typescript(npm: str, tmp_path: Path) -> None:
    """Its compiler takes the examples as they stand, after what a reader of the page has by then."""
    places = {"@mattebox/client": [str(PACKAGE / "src" / "index.ts")]}
    options: dict[str, Any] = {"noEmit": True, "noUnusedLocals": False, "paths": places, "rootDir": "/"}
    options["typeRoots"] = [str(PACKAGE / "node_modules" / "@types")]
    settings = {"extends": str(PACKAGE / "tsconfig.json"), "compilerOptions": options, "include": ["*.ts"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(settings))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    found = [(page, block) for page in PAGES for block in tried(page, "ts")]
    assert len(found) > 5
    for page, block in found:
        code = block.code if "import " in block.code else GIVEN_IN_TYPESCRIPT + block.code
        if "const client" in block.code:
            code = code.replace("declare const client: Client;", "")
        (tmp_path / f"{page.replace('/', '-')}-{block.line}.ts").write_text(f"{code}export {{}};\n")
    run(npm, "exec", "--", "tsc", "-p", str(tmp_path))


def flags_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    return {flag for parameter in group.commands[command].params for flag in parameter.opts}


def test_every_option_of_the_contract_is_described() -> None:
    text = (DOCS / "options.md").read_text()
    names = [field.name for message in OPTION_MESSAGES for field in message.DESCRIPTOR.fields]
    assert len(names) > 25
    assert [name for name in names if f"`{name}`" not in text] == []
    assert [name for name in COLORS if f"`{name}`" not in text] == []


def test_every_argument_of_the_client_is_described() -> None:
    for page, call in (
        ("options.md", mattebox.Client.remove_background),
        ("options.md", mattebox.Output),
        ("options.md", mattebox.Matte),
        ("streams.md", mattebox.Client.remove_backgrounds),
    ):
        text = "".join((DOCS / each).read_text() for each in {page, "options.md"})
        for name in inspect.signature(call).parameters:
            assert name == "self" or re.search(rf"`(\w+\()?{name}\b", text), f"{page}: {name}"


def test_every_error_is_described() -> None:
    text = (DOCS / "errors.md").read_text()
    names = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(names) >= 12
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_class_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "python.md").read_text()
    modules = re.findall(r"^::: (mattebox\.\w+)$", text, re.MULTILINE)
    for name in mattebox.__all__:
        home = getattr(getattr(mattebox, name), "__module__", "mattebox.photos")
        home = "mattebox.photos" if not home.startswith("mattebox.") else home
        assert home in modules or f"::: {home}.{name}\n" in text, name


def test_what_is_described_elsewhere_is_there() -> None:
    headings = re.findall(r"^#+ (.+)$", (DOCS.parent / "README.md").read_text(), re.MULTILINE)
    rows = [line for line in (DOCS / "operating.md").read_text().splitlines() if line.startswith("| ")]
    assert set(re.findall(r"\*(.+?)\*", "".join(rows))) - set(headings) == set()
    for file in re.findall(r"[\w/]+\.md\b", "".join(rows)):
        assert (DOCS.parent / file).is_file(), file


def test_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in (DOCS / "pictures").iterdir()]
    assert max(sizes) < 60_000
    assert sum(sizes) < 1_500_000
