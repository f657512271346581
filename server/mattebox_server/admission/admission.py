"""Which requests the server takes, in which order, and how much memory they hold."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mattebox_server.admission.budget import Budget, Share
from mattebox_server.admission.lane import Lane, Origin, QueueLimits, Turn


@dataclass(frozen=True)
class Entry:
    """Leave for one request to come in, given before it is received, when its model isn't known yet.

    Args:
        origin: where the request comes from.
        memory: the memory that the request holds.
        trials: the models whose lanes let it in to measure anew, though they would have refused it.
    """

    origin: Origin
    memory: Share
    trials: frozenset[str] = frozenset()


class Admission:
    """The lanes of all models, and the memory that their requests share.

    Args:
        models: the names of the models, the default one first.
        limits: the bounds of each model's queue.
        memory_bytes: the memory of all requests that have arrived.
    """

    def __init__(self, models: tuple[str, ...], limits: QueueLimits, memory_bytes: int) -> None:
        self._lanes = {model: Lane(limits) for model in models}
        self.memory = Budget(memory_bytes)

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lane of each model, by the model's name."""
        return self._lanes

    @contextmanager
    def entry(self, origin: Origin) -> Generator[Entry]:
        """Lets a request come in, unless each model is sure to refuse it. To be held until the request has ended.

        A refusal before the request is received costs neither side the photo's bytes.

        Raises:
            Overloaded, DeadlineExceeded: the default model's reason.
        """
        for lane in self._lanes.values():
            lane.note_asking(origin.caller)
        refusals = {model: lane.refusal(origin) for model, lane in self._lanes.items()}
        refused = {model: refusal for model, refusal in refusals.items() if refusal is not None}
        trials = frozenset[str]()
        if len(refused) == len(refusals):
            trials = frozenset(m for m, refusal in refused.items() if self._lanes[m].claim_trial(origin, refusal))
            if not trials:
                raise next(iter(refused.values())).error
        try:
            with self.memory.share() as share:
                yield Entry(origin, share, trials)
        finally:
            for model in trials:
                self._lanes[model].end_trial()

    @asynccontextmanager
    async def turn(self, model: str, entry: Entry) -> AsyncGenerator[Turn]:
        """Waits for the request's turn at its model and holds it until the block ends; raises as `Lane.turn` does."""
        async with self._lanes[model].turn(entry.origin, model in entry.trials) as turn:
            yield turn
