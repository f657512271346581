"""Structured logs on standard error, one event a line, in a form for people (console) or for machines (JSON)."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal, cast

import structlog

LogFormat = Literal["console", "json"]

_OWN = "mattebox_server"


def configure(log_format: LogFormat, level: str) -> None:
    """Sets up logging for the process: for events of structlog, and for libraries that use the standard library.

    Args:
        log_format: the form of a line.
        level: the lowest level that is logged, such as "info". Libraries log warnings and errors only.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [_escape_values, _flatten_numbers, _console()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries log callers' data at lower levels: Pillow logs every EXIF tag, and so where a photo was taken.
    root.setLevel(max(least, logging.WARNING))
    logging.getLogger(_OWN).setLevel(least)


def _console() -> structlog.dev.ConsoleRenderer:
    """Renders events for people, with plain tracebacks.

    structlog's default shows local variables in tracebacks if rich is installed, and these can be photos and tokens.
    """
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=plain, sort_keys=False, pad_event_to=0
    )


def _escape_values(_logger: object, _name: str, event: structlog.typing.EventDict) -> Mapping[str, Any]:
    """Escapes control characters, so that callers' texts can't control the reader's terminal or forge lines."""
    return {key: _escaped(value) if isinstance(value, str) else value for key, value in event.items()}


def _escaped(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _flatten_numbers(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Turns a dictionary of numbers into text such as `decode 3.1, infer 290.4`."""
    for name, value in event.items():
        if isinstance(value, dict):
            numbers = cast("dict[str, object]", value)
            event[name] = ", ".join(f"{part} {number}" for part, number in numbers.items())
    return event
