"""How much the server takes on at once, and in which order."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mattebox_server.admission.budget import Budget, Share
from mattebox_server.admission.lane import Lane, LaneLimits, Turn
from mattebox_server.errors import DeadlineExceeded, Overloaded


@dataclass(frozen=True)
class Origin:
    """Where a request comes from and when its answer is due.

    Args:
        caller: the name of the caller's token, or else its connection; callers are served in turn.
        deadline_s: on the clock of `time.monotonic`; None means never.
    """

    caller: str = ""
    deadline_s: float | None = None


class Admission:
    """The lanes of all models, and the pixels that all of their requests hold in memory.

    Args:
        models: names of the models.
        limits: of each of them.
        max_pixels: of all photos in flight.
    """

    def __init__(self, models: tuple[str, ...], limits: LaneLimits, max_pixels: int) -> None:
        self._lanes = {model: Lane(limits) for model in models}
        self.pixels = Budget("pixels", max_pixels)

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """Of each model, by its name."""
        return self._lanes

    def check_room(self, origin: Origin) -> None:
        """Raises Overloaded or DeadlineExceeded if a request is sure to be refused, whatever its model.

        To be asked before the request is received: a refusal then costs neither side the photo's bytes.
        """
        refusal: Exception | None = None
        for lane in self._lanes.values():
            try:
                lane.check_room(origin.caller, origin.deadline_s)
            except (Overloaded, DeadlineExceeded) as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise refusal

    @asynccontextmanager
    async def enter(self, model: str, origin: Origin) -> AsyncGenerator[tuple[Turn, Share]]:
        """Waits for a turn and holds it until the block ends; gives it, and what the request holds of all pixels.

        Raises:
            Overloaded: at a limit.
            DeadlineExceeded: the deadline passed, or can't be met.
        """
        async with self._lanes[model].turn(origin.caller, origin.deadline_s) as turn:
            with self.pixels.share() as share:
                yield turn, share
