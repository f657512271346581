"""The interface by which the engine reports how long its work takes."""


class EngineObserver:
    """Takes note of nothing; the metrics override its methods.

    They are called on the engine's threads, so that they must be quick and may not raise.
    """

    def phase(self, phase: str, model: str, seconds: float) -> None:
        """Takes note of the duration of a phase (trial, compile, check or warm up) in the start of a session."""

    def run(self, model: str, provider: str, photos: int, seconds: float) -> None:
        """Takes note of the duration of a run, in which a model has answered a batch of so many photos."""
