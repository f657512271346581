"""Structured logs, one event a line: for people (console) or machines (JSON). They go to standard error."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal, cast

import structlog

LogFormat = Literal["console", "json"]

_OWN = "mattebox_server"


def configure(log_format: LogFormat, level: str) -> None:
    """Sets up logging for the process: structlog's own events, and what libraries log through the standard library."""
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [_printable, _in_a_row, _console()]
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
    # Below a warning libraries tell what callers sent: Pillow every EXIF tag of a photo, with where it was taken.
    root.setLevel(max(least, logging.WARNING))
    logging.getLogger(_OWN).setLevel(least)


def _console() -> structlog.dev.ConsoleRenderer:
    """For people. Where rich is installed, structlog would show local variables beside a traceback: photos, tokens."""
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=plain, sort_keys=False, pad_event_to=0
    )


def _printable(_logger: object, _name: str, event: structlog.typing.EventDict) -> Mapping[str, Any]:
    """What callers send must not steer the terminal of who reads the log, nor look like lines of its own."""
    return {key: _escaped(value) if isinstance(value, str) else value for key, value in event.items()}


def _escaped(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _in_a_row(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Numbers by name as people read them: `decode 3.1, infer 290.4`."""
    for name, value in event.items():
        if isinstance(value, dict):
            numbers = cast("dict[str, object]", value)
            event[name] = ", ".join(f"{part} {number}" for part, number in numbers.items())
    return event
