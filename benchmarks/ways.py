"""Ways to run a network, and the race in which they are timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from map_quality import Answer, MapQuality

Run = Callable[[], object]

_PATIENCE_S = 30.0  # a way gets as many rounds as fit, two at least


@dataclass
class Way:
    """One way to run a network at one size.

    Args:
        name: in the table.
        run: does it once; None if it can't.
        reason: why it can't.
        seconds: of each counted round.
        answer: what it answers to a photo; None if that isn't judged.
        quality: how good its answers are; None if they aren't judged.
    """

    name: str
    run: Run | None
    reason: str = ""
    seconds: list[float] = field(default_factory=list[float])
    answer: Answer | None = None
    quality: MapQuality | None = None


def race(ways: list[Way], rounds: int) -> None:
    """All ways take turns; the first round warms up and tells how many rounds each gets."""
    counts: dict[str, int] = {}
    for way in ways:
        if way.run is not None:
            way.run()
            once_s = seconds(way.run)
            counts[way.name] = max(2, min(rounds, int(_PATIENCE_S / once_s)))
    for number in range(rounds):
        for way in ways:
            if way.run is not None and number < counts[way.name]:
                way.seconds.append(seconds(way.run))


def seconds(run: Run) -> float:
    """Wall-clock time of one run."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s
