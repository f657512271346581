"""Writes the tables of settings from the server's own settings whenever the site is built: a hook of mkdocs."""

import logging
import re
from typing import Any, Literal, get_args, get_origin

from mkdocs.structure.pages import Page
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mattebox_server.settings import Settings

log = logging.getLogger("mkdocs.hooks.settings")  # warnings of this logger end a build with --strict

PAGE = "operating/settings.md"
MARK = re.compile(r"^<!-- settings: ([a-z_ ]+) -->$", re.MULTILINE)
MIB = 1024 * 1024

# These defaults depend on the machine that the server runs on, so that their values here would mislead.
OF_THE_MACHINE = {
    "threads": "all cores that the process may use",
    "memory_bytes": "three quarters of the memory",
    "cache_dir": "`~/.cache/mattebox/compiled`",
}


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Puts a table in place of each mark of the page; mkdocs calls this for every page."""
    if page.file.src_uri != PAGE:
        return markdown
    marked = {name for names in MARK.findall(markdown) for name in names.split()}
    for name in sorted(marked ^ Settings.model_fields.keys()):
        log.warning("%s and the server's settings differ in %s", PAGE, name)
    return MARK.sub(lambda mark: table(mark[1].split()), markdown)


def table(names: list[str]) -> str:
    """Returns a table of settings in Markdown, one row for each name that the server has."""
    rows = [row(name, Settings.model_fields[name]) for name in names if name in Settings.model_fields]
    return "\n".join(["| setting | default | values | meaning |", "|---|---|---|---|", *rows])


def row(name: str, field: FieldInfo) -> str:
    """Returns the row of one setting."""
    cells = (f"`--{name.replace('_', '-')}`", default(name, field), values(name, field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def default(name: str, field: FieldInfo) -> str:
    """Returns a setting's default as people read it; "–" for none."""
    if name in OF_THE_MACHINE:
        return OF_THE_MACHINE[name]
    if field.default is PydanticUndefined:
        return "required" if field.is_required() else "–"
    if field.default is None or field.default == []:
        return "–"
    return amount(name, field.default) if type(field.default) in (int, float) else f"`{str(field.default).lower()}`"


def values(name: str, field: FieldInfo) -> str:
    """Returns the values that a setting takes: the words of a choice, or the range of a number."""
    choices = [choice for choice in (field.annotation, *get_args(field.annotation)) if get_origin(choice) is Literal]
    if choices:
        return ", ".join(f"`{word}`" for word in get_args(choices[0]))
    bounds = {bound: getattr(each, bound) for each in field.metadata for bound in ("gt", "ge", "lt", "le") if hasattr(each, bound)}
    low = amount(name, bounds["ge"]) if "ge" in bounds else f"above {amount(name, bounds['gt'])}" if "gt" in bounds else ""
    high = amount(name, bounds["le"]) if "le" in bounds else f"below {amount(name, bounds['lt'])}" if "lt" in bounds else ""
    if low and high:
        return f"{low} to {high}"
    return high and f"at most {high}" or low and (low if "gt" in bounds else f"{low} or more")


def amount(name: str, number: Any) -> str:
    """Returns a number with its unit, which the end of the setting's name says."""
    if name.endswith("_bytes"):
        return f"{number // MIB} MiB" if number % MIB == 0 and number else f"{number:,} B"
    return f"{number:g} s" if name.endswith("_seconds") else f"{number:,}"
