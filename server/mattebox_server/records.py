"""What is known of one request when it ends: for the answer, the log, the metrics, the traces and the pace."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One part of a request's time.

    Args:
        name: receive, wait, decode, preprocess, queue, infer, matte, encode or send.
        started_s: the moment when it began, on the clock of `time.monotonic`.
        seconds: how long it took.
    """

    name: str
    started_s: float
    seconds: float


class Timeline(list[Stage]):
    """The stages of one request in the order of time. A request is in one stage at a time, on whichever thread."""

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Appends the stage that the block is, if it ends well."""
        started_s = time.monotonic()
        yield
        self.append(Stage(name, started_s, time.monotonic() - started_s))

    def seconds(self, *names: str) -> float:
        """The seconds that the stages of these names took together."""
        return sum(stage.seconds for stage in self if stage.name in names)


@dataclass
class Record:
    """One request, filled in as it goes along.

    Attributes:
        method: the contract's name of the method.
        request_id: the id that the caller chose, or a new one.
        started_s: the moment of arrival, on the clock of `time.monotonic`.
        deadline_s: the moment when the answer is due, on the same clock; None means never.
        caller: the name of the caller's token; "" without tokens.
        seconds: the time from arrival to end.
        status: the name of the gRPC status that the request ended with.
        reason: why the request was refused, as the caller reads it; "" for an answer.
        limit: a word for the limit at which the request was refused; "" where no limit was the reason.
        request_bytes: the size of the request's message.
        response_bytes: the size of the answer's message.
        model: the model that answered, or the one that was asked for; 64 characters at most.
        provider: the execution provider that ran the model.
        batch_size: the number of photos in the run; 0 if there was none.
        width_px: the width of the answer.
        height_px: the height of the answer.
        times: the stages so far.
        traceparent: the caller's W3C trace context; "" for none.
    """

    method: str
    request_id: str
    started_s: float
    deadline_s: float | None = None
    caller: str = ""
    seconds: float = 0.0
    status: str = "OK"
    reason: str = ""
    limit: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    model: str = ""
    provider: str = ""
    batch_size: int = 0
    width_px: int = 0
    height_px: int = 0
    times: Timeline = field(default_factory=Timeline)
    traceparent: str = ""


Observer = Callable[[Record], None]
"""Gets the record of each request at its end, on the event loop."""
