"""CONTRIBUTING.md's lists of files: they exist, and what is there already is in the files that a list names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
LISTS = {
    heading: body for heading, _, body in (part.partition("\n") for part in TEXT.split("\n## ")) if "Add a" in heading
}
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:toml|txt|md))`")
CODE = ("server", "export", "clients/python/mattebox", "clients/typescript/src")
GENERATED = ("clients/python/mattebox/v1", "clients/typescript/src/gen")
MADE = {"build/docs/", "dist/"}  # by make


def named(heading: str) -> list[str]:
    return FILE.findall(LISTS[heading])


def mentions(word: str, folders: tuple[str, ...]) -> set[str]:
    """The sources that mention a word, in the spelling of either language; generated code apart."""
    plain = word.replace("_", "")
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".ts") and plain in path.read_text().lower().replace("_", "")
    }
    return {name for name in found if not name.startswith(GENERATED)}


def test_there_is_a_list_for_each_kind_of_addition() -> None:
    assert list(LISTS) == [
        "Add a matte method",
        "Add a runtime (an execution provider)",
        "Add an option of a request",
        "Add a network to the exporter",
    ]


@pytest.mark.parametrize("heading", LISTS)
def test_a_list_names_files_that_are_there_in_order(heading: str) -> None:
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", LISTS[heading], re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    steps = re.split(r"^\d+\. ", LISTS[heading], flags=re.MULTILINE)[1:]
    assert all(FILE.search(step) for step in steps)
    assert [name for name in named(heading) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("heading", "example", "folders"),
    [
        ("Add a matte method", "grabcut", CODE),
        ("Add an option of a request", "keep_edge_colors", CODE),
        ("Add a network to the exporter", "u2netp", ("export",)),
    ],
)
def test_a_list_holds_every_file_that_an_earlier_addition_is_in(
    heading: str, example: str, folders: tuple[str, ...]
) -> None:
    listed = named(heading)
    wholes = tuple(name for name in listed if name.endswith("/"))
    found = mentions(example, folders)
    assert len(found) > 1
    assert [name for name in sorted(found - set(listed)) if not name.startswith(wholes)] == []


def test_names_of_files_in_the_other_sections_exist() -> None:
    prose = TEXT.partition("\n## Add a")[0] + TEXT.rpartition("\n## Release")[2]
    names = {name for name in FILE.findall(prose) if not name.startswith("../")} - MADE
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
