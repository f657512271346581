"""Who wants to know how long the engine takes."""

from typing import Protocol


class EngineObserver(Protocol):
    """Gets what took how long, on the engine's own threads: to be quick and never to fail."""

    def phase(self, phase: str, model: str, seconds: float) -> None:
        """A phase of a session's start is over: compile, check or warm up."""
        ...

    def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
        """A network has answered a batch."""
        ...


class Unobserved:
    """Nobody wants to know."""

    def phase(self, phase: str, model: str, seconds: float) -> None:
        """See `EngineObserver`."""

    def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
        """See `EngineObserver`."""
