"""Structured logs, one event a line: for people (console) or machines (JSON). They go to standard error."""

import logging
import sys
from typing import Literal, cast

import structlog

LogFormat = Literal["console", "json"]


def configure(log_format: LogFormat, level: str) -> None:
    """Sets up logging for the process: structlog's own events, and what libraries log through the standard library."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [_in_a_row, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False, pad_event_to=0)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
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
    root.setLevel(level.upper())


def _in_a_row(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Numbers by name as people read them: `decode 3.1, infer 290.4`."""
    for name, value in event.items():
        if isinstance(value, dict):
            numbers = cast("dict[str, object]", value)
            event[name] = ", ".join(f"{part} {number}" for part, number in numbers.items())
    return event
