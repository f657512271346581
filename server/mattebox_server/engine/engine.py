"""Takes photos at the networks' size, gives what the networks found."""

import asyncio
from collections.abc import Mapping, Sequence

from mattebox_server.engine.batcher import Batcher, BatchLimits
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.observer import EngineObserver
from mattebox_server.engine.session import Session
from mattebox_server.errors import InvalidRequest, UnknownModel, Violation
from mattebox_server.pixels import Pixels


class Engine:
    """The networks of one server. The first is the default.

    Args:
        networks: the sessions of each network, its replicas, in the networks' order.
        limits: what each network collects, by its name.
        runs: how many runs go on at once.
        observer: gets the runs.
    """

    def __init__(
        self,
        networks: Sequence[Sequence[Session]],
        limits: Mapping[str, BatchLimits],
        runs: int = 1,
        observer: EngineObserver | None = None,
    ) -> None:
        if not networks:
            raise ValueError("an engine needs a session")
        self._networks = {sessions[0].spec.name: sessions for sessions in networks}
        if len(self._networks) != len(networks):
            raise ValueError("two sessions have the same name")
        self._batcher = Batcher(self._networks, limits, runs, observer)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """One session of each network, the default first."""
        return tuple(sessions[0] for sessions in self._networks.values())

    def session(self, name: str) -> Session:
        """A session of the network of that name; "" is the default. Raises UnknownModel."""
        if not name:
            return self.sessions[0]
        if name not in self._networks:
            raise UnknownModel(name, tuple(self._networks))
        return self._networks[name][0]

    async def infer(self, name: str, image: Pixels, kept: frozenset[int], deadline_s: float | None) -> Inference:
        """Runs a network on one photo. A caller that is cancelled takes its place in the queue with it.

        Args:
            name: of the network; "" is the default.
            image: uint8 (h, w, 3) BGR at the network's size.
            kept: indices of the classes that are the subject; saliency networks have no use for it.
            deadline_s: on the clock of `time.monotonic`; None means never.

        Raises:
            UnknownModel: there is no such network.
            InvalidRequest: the network takes no photo of that aspect here.
            Overloaded: too many photos wait for the network.
            DeadlineExceeded: the deadline passed before the run could start; nothing was run.
            InferenceFailed: the network failed.
        """
        session = self.session(name)
        _check_bounds(session, image)
        return await asyncio.wrap_future(self._batcher.submit(session.spec.name, image, kept, deadline_s))

    def close(self) -> None:
        """Ends the runs; those that wait are dropped, those that run are waited for."""
        self._batcher.close()


def _check_bounds(session: Session, image: Pixels) -> None:
    if session.bounds is None:
        return
    (shortest, longest), (height, width) = session.bounds, image.shape[:2]
    if min(height, width) < shortest or max(height, width) > longest:
        raise InvalidRequest(
            Violation(
                "photo",
                f"is too long and narrow for {session.spec.name} on {session.provider}: {width}x{height} at the"
                f" network's scale, its sides must be {shortest} to {longest}",
            )
        )
