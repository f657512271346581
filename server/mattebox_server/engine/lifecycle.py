"""Networks while the server runs: a session that fails is rebuilt, a network whose file is reloaded is replaced.

Both are slow. They happen on threads of their own, so that neither other networks nor the end of the server wait.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from mattebox_server.engine.config import ProviderUnavailable
from mattebox_server.engine.network import Network, Replica
from mattebox_server.engine.session import Session
from mattebox_server.errors import MatteboxError, StartupError

log = structlog.stdlib.get_logger(__name__)


class Opener(Protocol):
    """Opens networks and sessions, checks them and warms them up, which may take minutes."""

    def open(self, old: Network) -> Network:
        """Opens the network that takes an old one's place. Any exception means that it can't serve."""
        ...

    def open_session(self, network: Network) -> Session:
        """Opens one more session of a network. Any exception means that this is not possible now."""
        ...

    def changed(self) -> list[str]:
        """Names of networks whose file differs from the one that was opened, and is the same as at the last call."""
        ...


@dataclass(frozen=True)
class Backoff:
    """Pauses before attempts: `first_s` seconds before the first, then twice as long each time, up to `most_s` seconds.

    Each is shortened by a random part, which keeps servers that share a device from trying at the same moments.
    """

    first_s: float = 1.0
    most_s: float = 60.0

    def delay_s(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        longest_s = min(self.most_s, self.first_s * 2.0 ** min(attempts, 32))
        return longest_s * random.uniform(0.75, 1.0)  # noqa: S311 - no secret


class Lifecycle:
    """The networks that are served. Any thread may call any method.

    Attributes:
        networks: networks that are served now, by their names, the default first. A reload makes a new dictionary.
    """

    def __init__(self, networks: Sequence[Network], opener: Opener, backoff: Backoff) -> None:
        self.networks = {network.spec.name: network for network in networks}
        if not networks or len(self.networks) != len(networks):
            raise ValueError("an engine needs networks, each with a name of its own")
        self._opener, self._backoff = opener, backoff
        self._changed = threading.Condition()  # held by whoever changes the networks or what follows
        self._closed = False
        self._tell: Callable[[], None] = lambda: None

    def on_change(self, tell: Callable[[], None]) -> None:
        """Has `tell` called, on any thread but not after `close`, whenever a network starts or stops serving."""
        with self._changed:
            self._tell = tell

    def rebuild(self, network: Network, attempts: int, restore: Callable[[Replica], None]) -> None:
        """Opens a session in the place of one that was taken out of service, on a thread of its own.

        Args:
            network: network whose session failed.
            attempts: number of attempts at rebuilding the session since it last answered a caller.
            restore: puts the new session into service.
        """
        log.error("a session failed and is being rebuilt", model=network.spec.name, left=len(network.replicas))
        self._notify()
        arguments = network, attempts, restore
        threading.Thread(target=self._rebuild, args=arguments, name="rebuilding", daemon=True).start()

    def reload(self, names: Sequence[str]) -> None:
        """Loads networks anew from their files. If that fails, the reason is logged and the old network stays.

        Only one thread at a time may reload.
        """
        for name in names:
            if not self._closed:
                self._replace(self.networks[name])

    def close(self) -> None:
        """Begins no further reload or rebuild, and calls nobody; a network that is being opened is dropped later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _rebuild(self, network: Network, attempts: int, restore: Callable[[Replica], None]) -> None:
        while self._wait_turn(network, attempts):
            attempts += 1
            try:
                replica = Replica(self._opener.open_session(network), attempts)
            except Exception as error:  # noqa: BLE001 - whatever a provider raises, it is tried again
                _log_failure("the session can't be rebuilt", network.spec.name, error)
                continue
            log.info("session rebuilt", model=network.spec.name, attempts=attempts)
            restore(replica)
            self._notify()
            return

    def _wait_turn(self, network: Network, attempts: int) -> bool:
        """Waits before an attempt; returns False if the network was replaced or the server ends meanwhile."""
        name, delay_s = network.spec.name, self._backoff.delay_s(attempts)
        network.retry_after_s = delay_s
        with self._changed:
            return not self._changed.wait_for(lambda: self._closed or self.networks[name] is not network, delay_s)

    def _replace(self, old: Network) -> None:
        started_s, name = time.monotonic(), old.spec.name
        log.info("reloading", model=name)
        try:
            new = self._opener.open(old)
        except Exception as error:  # noqa: BLE001 - whatever a provider raises, the old one serves on
            _log_failure("the new model is refused, the old one stays", name, error)
            return
        with self._changed:
            self.networks = {**self.networks, name: new}
            self._changed.notify_all()
        self._notify()
        before, after, seconds = old.spec.weights.sha256, new.spec.weights.sha256, time.monotonic() - started_s
        log.info("model reloaded", model=name, weights_sha256=after, replaced_sha256=before, seconds=round(seconds, 3))

    def _notify(self) -> None:
        with self._changed:
            if not self._closed:
                self._tell()


def _log_failure(event: str, model: str, error: Exception) -> None:
    expected = isinstance(error, (StartupError, ProviderUnavailable, MatteboxError))
    log.error(event, model=model, reason=str(error), exc_info=None if expected else error)
