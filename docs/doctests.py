"""Puts fences around the examples in docstrings, which Markdown would take for quotations: an extension of griffe."""

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)


def fenced(text: str) -> str:
    """Returns a docstring with a fence around each example, which ends at a blank line as in doctest."""
    return _EXAMPLE.sub(lambda example: f"```pycon\n{example.group().rstrip()}\n```\n", text)


class Doctests(Extension):
    """Changes every docstring as it is loaded."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Puts the fences into one docstring. Later versions of griffe may pass further arguments."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
