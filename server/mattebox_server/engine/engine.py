"""The engine: runs the server's networks on photos that are prepared for them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from mattebox_server.engine.batcher import Batcher
from mattebox_server.engine.inference import Inference
from mattebox_server.engine.lifecycle import Backoff, Lifecycle, Opener
from mattebox_server.engine.network import Network
from mattebox_server.errors import InvalidRequest, UnknownModel, Violation
from mattebox_server.imaging.pixels import Pixels


class Engine:
    """The networks of one server.

    Args:
        networks: the networks, of which the first is the default.
        opener: loads networks and sessions anew.
        runs: number of runs that go on at once.
        backoff: pauses between attempts at rebuilding a session that failed.
    """

    def __init__(
        self, networks: Sequence[Network], opener: Opener, runs: int = 1, backoff: Backoff | None = None
    ) -> None:
        self._opener = opener
        self._lifecycle = Lifecycle(networks, opener, backoff or Backoff())
        self._batcher = Batcher(runs, self._lifecycle.rebuild)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that are served now, the default first."""
        return tuple(self._lifecycle.networks.values())

    def network(self, name: str) -> Network:
        """The network for new requests.

        Args:
            name: the model's name; "" means the default.

        Raises:
            UnknownModel: there is no model of that name.
            NotServing: the network failed and is being rebuilt.
        """
        networks = self._lifecycle.networks
        if name and name not in networks:
            raise UnknownModel(name, tuple(networks))
        network = networks[name or next(iter(networks))]
        network.require_serving()
        return network

    async def infer(
        self,
        network: Network,
        image: Pixels,
        kept: frozenset[int],
        deadline_s: float | None,
        ran: Callable[[float], None] | None = None,
    ) -> Inference:
        """Runs a network on one photo.

        If the calling task is cancelled, the photo leaves the queue, or its run is stopped if it is for nobody else.

        Args:
            network: the network that the photo was prepared for, even if it has been replaced meanwhile.
            image: uint8 (h, w, 3) BGR at the network's size.
            kept: indices of the classes that are the subject; a saliency network ignores them.
            deadline_s: time on the clock of `time.monotonic` by which the run must have started; None means never.
            ran: called with the seconds of the run on a thread of the engine, even if the caller has gone by then.

        Raises:
            InvalidRequest: the photo is too long and narrow for the network on this provider.
            NotServing: the network failed and is being rebuilt.
            Overloaded: the device has no memory for this photo.
            DeadlineExceeded: the deadline passed before the run could start.
            InferenceFailed: the network failed.
        """
        _check_bounds(network, image)
        future = self._batcher.submit(network, image, kept, deadline_s)
        if ran is not None:
            future.add_done_callback(partial(_tell, ran))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._batcher.abandon(future)
            raise

    def on_change(self, tell: Callable[[], None]) -> None:
        """Has `tell` called, on any thread but not after `close`, whenever a network starts or stops serving."""
        self._lifecycle.on_change(tell)

    def reload(self) -> None:
        """Loads every network anew from its file, which takes as long as a start."""
        self._lifecycle.reload(tuple(self._lifecycle.networks))

    def reload_changed(self) -> None:
        """Loads the networks anew whose files have changed, and are the same as at the last call."""
        self._lifecycle.reload(self._opener.changed())

    def close(self) -> None:
        """Drops the photos that wait, and waits for the runs that go on."""
        self._lifecycle.close()
        self._batcher.close()


def _tell(ran: Callable[[float], None], future: Future[Inference]) -> None:
    if not future.cancelled() and future.exception() is None:
        ran(future.result().infer_s)


def _check_bounds(network: Network, image: Pixels) -> None:
    height, width = image.shape[:2]
    shortest, longest = network.bounds or (0, max(height, width))
    if min(height, width) < shortest or max(height, width) > longest:
        problem = (
            f"is too long and narrow for {network.spec.name} on {network.provider}: {width}x{height} at the network's"
            f" scale, its sides must be {shortest} to {longest}"
        )
        raise InvalidRequest(Violation("photo", problem))
