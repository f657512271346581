"""What can go wrong, in the words of the domain.

```
MatteboxError
├── InvalidRequest        the caller's mistake, with the fields that are wrong
│   ├── BadPhoto          not an image, or a broken one
│   └── PhotoTooLarge     over the limit of bytes or pixels
├── Unauthenticated       no token, or a wrong one
├── UnknownModel
├── Overloaded            at a limit now, later it may work
├── NotServing            starting or draining, or rebuilding the model
├── DeadlineExceeded      passed, or can't be met
└── InferenceFailed       the engine failed on a valid request
    └── OutOfMemory       the device had no memory for so many photos; the engine tries fewer
StartupError              the server can't start as asked; never reaches a caller
```

The service maps them to gRPC statuses in one place. This module imports nothing of Mattebox.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One field of a request that is wrong.

    Args:
        field: its path in the request message, such as `output.quality`.
        description: what is wrong with it, for the caller to read.
    """

    field: str
    description: str


class MatteboxError(Exception):
    """Root of all errors that a caller may see."""


class InvalidRequest(MatteboxError):
    """The request can't be answered as it is, now or later."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class BadPhoto(InvalidRequest):
    """An image that can't be decoded."""


class PhotoTooLarge(InvalidRequest):
    """An image over the limit of bytes or pixels."""


class Unauthenticated(MatteboxError):
    """The call came without a token, or with a wrong one: the text is the same for both."""

    limit = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("missing or wrong token: the metadata must have authorization: Bearer TOKEN")


class UnknownModel(MatteboxError):
    """The server has no model of that name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown model {name[:64]!r}; this server has {', '.join(known)}")
        self.name = name


class Overloaded(MatteboxError):
    """A limit of the server is reached; the same request may succeed after `retry_after_s` seconds.

    Args:
        reason: for the caller to read.
        retry_after_s: seconds after which there may be room.
        limit: which one, in a word, for the metrics.
    """

    def __init__(self, reason: str, retry_after_s: float, limit: str) -> None:
        super().__init__(reason)
        self.retry_after_s, self.limit = retry_after_s, limit


class NotServing(MatteboxError):
    """The server starts, drains or rebuilds the model; another one, or this one a little later, may answer.

    Args:
        reason: for the caller to read.
        retry_after_s: seconds after which it may serve.
        state: which one, in a word, for the metrics.
    """

    def __init__(self, reason: str, retry_after_s: float, state: str = "starting") -> None:
        super().__init__(reason)
        self.retry_after_s, self.limit = retry_after_s, state


class DeadlineExceeded(MatteboxError):
    """The caller's deadline passed before the work was done, or is sure to."""

    limit = "deadline"


class InferenceFailed(MatteboxError):
    """The engine failed on a valid request. The cause is for the log, not for the caller."""


class OutOfMemory(InferenceFailed):
    """The device has no memory for a run. Stays in the engine, whose callers are told Overloaded if one is too many."""


class StartupError(Exception):
    """The server can't start as asked: the message says what is missing and how to mend it."""
