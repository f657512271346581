"""Writes the tables of settings from the server's own settings whenever the site is built: a hook of mkdocs."""

import logging
import re
from typing import Any, Literal, get_args, get_origin

from mkdocs.structure.pages import Page
from pydantic.fields import FieldInfo

from mattebox_server.settings import Settings

log = logging.getLogger("mkdocs.hooks.settings")  # warnings of this logger end a build with --strict

PAGE = "operating/settings.md"
MARK = re.compile(r"^<!-- settings: ([a-z_ ]+) -->$", re.MULTILINE)
PROGRAM_OR_HEADER = re.compile(r"(?<!`)\b((?:mattebox|x)-[a-z-]+)\b(?!`)")
MIB = 1024 * 1024

# These defaults depend on the machine that the server runs on: the values of this machine would mislead.
OF_THE_MACHINE = {
    "threads": "all cores that the process may use",
    "memory_bytes": "three quarters of the memory",
    "cache_dir": "`~/.cache/mattebox/compiled`",
}


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Puts a table in place of each mark of the page; mkdocs calls this for every page."""
    if page.file.src_uri != PAGE:
        return markdown
    for name in sorted(marked(markdown) ^ Settings.model_fields.keys()):
        log.warning("%s and the server's settings differ in %s", PAGE, name)
    return MARK.sub(lambda mark: table(mark[1].split()), markdown)


def marked(markdown: str) -> set[str]:
    """Returns the names of all settings that the page's marks ask for."""
    return {name for names in MARK.findall(markdown) for name in names.split()}


def table(names: list[str]) -> str:
    """Returns a table in Markdown with a row for each of these settings that the server has."""
    fields = {name: Settings.model_fields[name] for name in names if name in Settings.model_fields}
    lines = [
        ["setting", "default", "values", "meaning"],
        ["---"] * 4,
        *([flag(name), default(name, field), values(name, field), meaning(field)] for name, field in fields.items()),
    ]
    if not any(line[2] for line in lines[2:]):
        lines = [[*line[:2], line[3]] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def flag(name: str) -> str:
    """Returns a setting's flag."""
    return f"`--{name.replace('_', '-')}`"


def meaning(field: FieldInfo) -> str:
    """Returns a setting's help text, with the names of programs and headers as code, which no line break divides."""
    return PROGRAM_OR_HEADER.sub(r"`\1`", (field.description or "").replace("|", "\\|"))


def default(name: str, field: FieldInfo) -> str:
    """Returns a setting's default as people read it; "none" for no value."""
    if name in OF_THE_MACHINE:
        return OF_THE_MACHINE[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, [], ()):
        return "none"
    return amount(name, value) if type(value) in (int, float) else f"`{str(value).lower()}`"


def values(name: str, field: FieldInfo) -> str:
    """Returns the values that a setting takes: the words of a choice or the range of a number; "" for all others."""
    for each in (field.annotation, *get_args(field.annotation)):
        if get_origin(each) is Literal:
            return ", ".join(f"`{word}`" for word in get_args(each))
    bounds = {
        bound: getattr(each, bound) for each in field.metadata for bound in ("gt", "ge", "le") if hasattr(each, bound)
    }
    shown = {bound: amount(name, number) for bound, number in bounds.items()}
    low = f"above {shown['gt']}" if "gt" in shown else shown.get("ge", "")
    if "le" in shown:
        return f"{low} to {shown['le']}" if low else f"at most {shown['le']}"
    return f"{low} or more" if "ge" in shown else low


def amount(name: str, number: Any) -> str:
    """Returns a number with the unit that the end of the setting's name says."""
    if name.endswith("_bytes"):
        return f"{number // MIB}&nbsp;MiB" if number and number % MIB == 0 else f"{number:,}&nbsp;B"
    return f"{number:g}&nbsp;s" if name.endswith("_seconds") else f"{number:,}"
