"""The documentation: its examples run as they stand against a real server, what it names exists, and it is complete."""

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
from mattebox_export.arguments import parse_arguments
from mattebox_export.catalogue import CATALOGUE
from mattebox_server.local import LocalServer
from mattebox_server.settings import Settings
from mattebox_server.telemetry.metrics import COUNTERS_AND_GAUGES, HISTOGRAMS
from node_package import PACKAGE, npm, run

__all__ = ["npm"]  # a fixture

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = "../README.md"
OUTSIDE = (README, "../deploy/README.md", "../ARCHITECTURE.md", "../SECURITY.md")
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
RECORDS = sorted(page.name for page in (DOCS / "decisions").glob("[0-9]*.md"))
SHOWN = ("index.md", "quickstart.md", "options.md", "many-photos.md", "errors.md", "deadlines.md", "scaling.md", README)
OPTION_MESSAGES = (
    pb.RemoveBackgroundRequest, pb.RawImage, pb.Matte, pb.Background, pb.Color, pb.Blur, pb.Output, pb.Crop,
)  # fmt: skip

GIVEN_IN_TYPESCRIPT = """
import { Background, Client } from "@mattebox/client";
declare const client: Client;
declare const photos: string[];
declare const token: string;
"""

MOST_LINES = {"README.md": 120, "ARCHITECTURE.md": 150}

# What the examples of a page print, among other things.
PRINTED = {
    "quickstart.md": ("red ", "(64, 96, 3) (96, 64)"),
    "many-photos.md": ("0 96", "1 96"),
    "errors.md": ("output.quality ", "output.crop"),
    "deadlines.md": ("True",),
}

_RECORD = re.compile(
    r"# (?P<number>\d{3}) [^\n]+\n\nDate: \d{4}-\d\d-\d\d[^\n]*\n\n"
    r"## Context\n\n.+\n\n## Decision\n\n.+\n\n## Consequences\n\n.+\n",
    re.DOTALL,
)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_VARIABLE = re.compile(r"\bMATTEBOX_([A-Z_]*[A-Z])\b")

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
    for page in (*PAGES, README):
        fences = len(_FENCE.findall((DOCS / page).read_text()))
        assert len(list(blocks(page))) * 2 == fences, page
    assert all(any(tried(page, "python")) for page in SHOWN)


@pytest.mark.parametrize("page", [page for page in (*PAGES, README) if tried(page, "python")])
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


@pytest.mark.parametrize("page", [page for page in (*PAGES, README) if tried(page, "sh")])
def test_flags_of_command_lines_exist(page: str) -> None:
    for block in tried(page, "sh"):
        for line in block.code.replace("\\\n", "").splitlines():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "mattebox-export":
                assert parse_arguments(words) is not None  # a wrong option exits
                continue
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
        ("many-photos.md", mattebox.Client.remove_backgrounds),
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


def test_every_setting_is_in_a_table() -> None:
    marks = re.findall(r"^<!-- settings: (.+) -->$", (DOCS / "operating" / "settings.md").read_text(), re.MULTILINE)
    names = " ".join(marks).split()
    assert sorted(names) == sorted(Settings.model_fields)


def test_every_network_is_recommended_for_something_under_its_licence() -> None:
    purposes, rest = (DOCS / "which-network.md").read_text().split("```sh", 1)
    recommended = set(re.findall(r"`([a-z][\w-]+)`", purposes))
    licences = re.findall(r"^\| `([\w.-]+)` \| (`.+`) \|$", rest.partition("## Licences")[2], re.MULTILINE)
    assert recommended == set(CATALOGUE)
    assert {name: licence for licence, names in licences for name in re.findall(r"`([\w-]+)`", names)} == {
        entry.name: entry.licence for entry in CATALOGUE.values()
    }
    restricted = re.findall(r"\*\*`([\w-]+)` may not be used commercially\*\*", rest)
    assert restricted == [entry.name for entry in CATALOGUE.values() if not entry.commercial]


def test_every_metric_is_described() -> None:
    rows = re.findall(
        r"^\| `(mattebox_\w+)` \| ([\w, ]*?) *\|", (DOCS / "operating" / "observing.md").read_text(), re.MULTILINE
    )
    assert {name: tuple(labels.split(", ")) if labels else () for name, labels in rows} == {
        **COUNTERS_AND_GAUGES,
        **HISTOGRAMS,
    }


@pytest.mark.parametrize("page", [*PAGES, *OUTSIDE])
def test_variables_and_targets_that_a_page_names_exist(page: str) -> None:
    text = (DOCS / page).read_text()
    clients: Any = typer.main.get_command(app)
    variables = {
        parameter.envvar for command in clients.commands.values() for parameter in command.params if parameter.envvar
    }
    variables |= {f"MATTEBOX_{name.upper()}" for name in Settings.model_fields}
    assert {f"MATTEBOX_{name}" for name in _VARIABLE.findall(text)} - {"MATTEBOX_NAME"} <= variables
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= set(targets)


@pytest.mark.parametrize("page", OUTSIDE)
def test_links_outside_of_the_site_lead_somewhere(page: str) -> None:
    links = _LINK.findall((DOCS / page).read_text())
    assert [link for link in links if not ((DOCS / page).parent / link).exists()] == []


@pytest.mark.parametrize("name", MOST_LINES)
def test_pages_that_open_the_project_are_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= MOST_LINES[name]


def test_architecture_maps_every_folder_of_the_server() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folders = [path.parent.name for path in (ROOT / "server" / "mattebox_server").glob("*/__init__.py")]
    assert len(folders) == 8
    assert [name for name in folders if f"\n    {name}/ " not in text] == []


@pytest.mark.parametrize("number", range(1, len(RECORDS) + 1))
def test_decisions_have_dates_and_headings(number: int) -> None:
    name = RECORDS[number - 1]
    text = (DOCS / "decisions" / name).read_text()
    record = _RECORD.fullmatch(text)
    assert record is not None
    assert name.startswith(f"{number:03}-")
    assert record["number"] == f"{number:03}"
    title, date = text.splitlines()[0].removeprefix("# "), text.splitlines()[2].removeprefix("Date: ")
    row = f"| [{title[:3]}]({name}) | {title[4:]} | {date} |"
    assert row in (DOCS / "decisions" / "index.md").read_text().splitlines()


def test_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in (DOCS / "pictures").iterdir()]
    assert max(sizes) < 60_000
    assert sum(sizes) < 1_500_000
