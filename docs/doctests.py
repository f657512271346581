"""Puts fences around the examples in docstrings, which would be quotations in Markdown; for mkdocstrings."""

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)


def fenced(text: str) -> str:
    """Each example ends with a blank line, as doctest has it."""
    return _EXAMPLE.sub(lambda example: f"```pycon\n{example.group().rstrip()}\n```\n", text)


class Doctests(Extension):
    """Every docstring, as it is loaded."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe, which may tell more in later versions."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
