"""The errors that the server raises. This module imports nothing of Mattebox, so that every other module can use it.

```
MatteboxError
├── InvalidRequest        the request is wrong; the error names the fields and says what is wrong with each
│   ├── BadPhoto          the bytes are no image that can be decoded
│   └── PhotoTooLarge     the image is over the limit of bytes or pixels
├── Unauthenticated       the call has no token, or a wrong one
├── UnknownModel          the server has no model of that name
├── Overloaded            a limit is reached; the same request may succeed later
├── NotServing            the server is starting or draining, or the model is being rebuilt
├── DeadlineExceeded      the caller's deadline has passed, or can't be met
└── InferenceFailed       the network failed on a valid request
    └── OutOfMemory       the device has too little memory for a batch; the engine retries with fewer photos
StartupError              the server can't start with its settings; no caller sees this error
```

`rpc/statuses.py` maps each of them to a gRPC status.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """A wrong field of a request.

    Args:
        field: path of the field in the request message, such as `output.quality`.
        description: what is wrong with the field, for the caller to read.
    """

    field: str
    description: str


class MatteboxError(Exception):
    """The base class of all errors that a caller may see."""


class InvalidRequest(MatteboxError):
    """The request is wrong, so that it fails however often it is sent.

    Args:
        violations: the wrong fields.
    """

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class BadPhoto(InvalidRequest):
    """The bytes are no image, or one that can't be decoded."""


class PhotoTooLarge(InvalidRequest):
    """The image is over the server's limit of bytes or pixels."""


class Unauthenticated(MatteboxError):
    """The call has no token or a wrong one. The text is the same for both, so that it tells nothing about tokens."""

    limit = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("missing or wrong token: the metadata must have authorization: Bearer TOKEN")


class UnknownModel(MatteboxError):
    """The server has no model of that name.

    Args:
        name: the name in the request, of which the text shows the first 64 characters.
        known: the names of the server's models.
    """

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown model {name[:64]!r}; this server has {', '.join(known)}")
        self.name = name


class Overloaded(MatteboxError):
    """A limit of the server is reached, so that the same request may succeed later.

    Args:
        reason: a sentence for the caller, which says what limit is reached.
        retry_after_s: seconds after which there may be room.
        limit: one word for the limit, which labels the metric `mattebox_rejected_total`.
    """

    def __init__(self, reason: str, retry_after_s: float, limit: str) -> None:
        super().__init__(reason)
        self.retry_after_s, self.limit = retry_after_s, limit


class NotServing(MatteboxError):
    """The server is starting or draining, or rebuilds the model; another server may answer, or this one a little later.

    Args:
        reason: a sentence for the caller, which says why the server doesn't serve.
        retry_after_s: seconds after which the server may serve.
        state: one word for the reason, which labels the metric `mattebox_rejected_total`.
    """

    def __init__(self, reason: str, retry_after_s: float, state: str = "starting") -> None:
        super().__init__(reason)
        self.retry_after_s, self.limit = retry_after_s, state


class DeadlineExceeded(MatteboxError):
    """The caller's deadline passed before the work was done, or is certain to pass."""

    limit = "deadline"


class InferenceFailed(MatteboxError):
    """The network failed on a valid request. The log shows the cause, which callers must not see."""


class OutOfMemory(InferenceFailed):
    """The device has too little memory for a batch. The engine retries with fewer photos; callers see Overloaded."""


class StartupError(Exception):
    """The server can't start with its settings. The text says what is wrong and how to repair it."""
