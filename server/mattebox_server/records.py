"""What is known of one request in the end: for the log, the metrics and the traces."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """A part of a request's time.

    Args:
        name: receive, wait, decode, preprocess, queue, infer, matte, encode or send.
        started_s: on the clock of `time.monotonic`.
        seconds: how long it took.
    """

    name: str
    started_s: float
    seconds: float


@dataclass
class Record:
    """One request, filled as it goes along.

    Attributes:
        method: of the contract.
        request_id: the caller's, or a new one.
        started_s: on the clock of `time.monotonic`.
        deadline_s: on the same clock; None means never.
        caller: name of its token; "" without tokens.
        seconds: from its arrival to its end.
        status: name of the gRPC status that it ended with.
        reason: why it was refused, as the caller reads it; "" for an answer.
        limit: for a refusal for want of room or time, which limit: a word for the metrics.
        request_bytes: size of its message.
        response_bytes: size of the answer's message.
        model: that answered, or was asked for.
        provider: that ran it.
        batch_size: photos in its run; 0 if there was none.
        width_px: of the answer.
        height_px: of the answer.
        stages: in the order of time.
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
    stages: list[Stage] = field(default_factory=list[Stage])
    traceparent: str = ""


Observer = Callable[[Record], None]
"""Gets the record of each request at its end, on the event loop."""
