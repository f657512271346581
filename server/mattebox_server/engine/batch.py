"""A photo that waits for its network, and the batches in which photos run."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from mattebox_server.engine.inference import Abandoned, Inference
from mattebox_server.errors import DeadlineExceeded
from mattebox_server.imaging.pixels import Pixels

Outcome = Inference | BaseException
"""What a request ends with."""


@dataclass(frozen=True, eq=False)
class Request:
    """A photo, from the queue of its network to its answer.

    Args:
        image: uint8 (h, w, 3) BGR at the network's size.
        kept: indices of the classes that are the subject.
        deadline_s: time, on the clock of `time.monotonic`, from which an answer is of no use; None means never.
        queued_s: time of arrival on the same clock.
        future: what the caller waits for.
        abandoned: whether the caller has left after the run was chosen.
    """

    image: Pixels
    kept: frozenset[int]
    deadline_s: float | None
    queued_s: float
    future: Future[Inference] = field(default_factory=Future[Inference])
    abandoned: threading.Event = field(default_factory=threading.Event)

    def is_late(self, now_s: float) -> bool:
        """Whether the deadline has passed."""
        return self.deadline_s is not None and now_s >= self.deadline_s

    def tell(self, outcome: Outcome) -> None:
        """Gives the caller its answer or error. The caller's callbacks run in here, so that no lock may be held."""
        if isinstance(outcome, Inference):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class Batch:
    """Requests that share one run of a session.

    A batch is chosen, runs once, and is over. By then each of its requests has ended, with an answer or with an error,
    or is part of a smaller batch that is tried next: so each request ends exactly once.

    Attributes:
        requests: the requests that run; empty once the batch is over.
        ended: the requests that have ended, each with its outcome.
        smaller: the batches in which all other requests are tried again.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self.ended: list[tuple[Request, Outcome]] = []
        self.smaller: list[Batch] = []

    def drop_unwanted(self, now_s: float) -> None:
        """Ends the requests that nobody waits for any longer, and those whose deadline has passed."""
        wanted: list[Request] = []
        for request in self.requests:
            if request.is_late(now_s):
                self.ended.append((request, late()))
            elif request.abandoned.is_set():
                self.ended.append((request, Abandoned()))
            else:
                wanted.append(request)
        self.requests = tuple(wanted)

    def answer(self, found: Sequence[Inference], started_s: float) -> None:
        """Ends the requests, in order, with the inferences of a run that started at `started_s` (`time.monotonic`)."""
        for request, inference in zip(self.requests, found, strict=True):
            self.ended.append((request, replace(inference, queue_s=started_s - request.queued_s)))
        self.requests = ()

    def fail(self, error: BaseException) -> None:
        """Ends every request with the same error."""
        self.ended.extend((request, error) for request in self.requests)
        self.requests = ()

    def split(self, size: int) -> None:
        """Moves the requests into smaller batches of at most `size` photos, in which they are tried again."""
        starts = range(0, len(self.requests), size)
        self.smaller = [Batch(self.requests[start : start + size]) for start in starts]
        self.requests = ()


def late() -> DeadlineExceeded:
    """The error of a request whose deadline passed before its run."""
    return DeadlineExceeded("the deadline passed in the engine's queue")
