"""The interface by which the engine reports how long its work takes; the metrics implement it."""

from typing import Protocol


class EngineObserver(Protocol):
    """Is called on the engine's threads, so that its methods must be quick and may not raise."""

    def phase(self, phase: str, model: str, seconds: float) -> None:
        """Takes note of a phase of a session's start.

        Args:
            phase: compile, check or warm up.
            model: the network's name.
            seconds: the phase's duration.
        """
        ...

    def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
        """Takes note of a run in which a network has answered a batch.

        Args:
            model: the network's name.
            provider: the execution provider.
            photos: number of photos in the batch.
            seconds: the run's duration.
        """
        ...


class Unobserved:
    """Takes note of nothing."""

    def phase(self, phase: str, model: str, seconds: float) -> None:
        """Does nothing."""

    def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
        """Does nothing."""
