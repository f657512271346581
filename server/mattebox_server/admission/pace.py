"""How long a model's requests took lately, and so how long the next ones will take."""

from collections import deque
from statistics import fmean
from typing import Literal

Part = Literal["prepare", "infer", "finish"]

_PARTS: tuple[Part, ...] = ("prepare", "infer", "finish")
_KEPT = 16  # measurements: enough for a mean, few enough to forget a bad minute
_OPTIMISM = 0.9  # share of the shortest measured time that is taken for the least that is needed


class Pace:
    """Measurements of one model. A part that was never measured is expected to take no time.

    The parts of a request are `prepare` (decode and preprocess), `infer` (the network) and `finish` (matte, blend and
    encode). All of it belongs to the event loop.
    """

    def __init__(self) -> None:
        self._seconds: dict[Part, deque[float]] = {part: deque(maxlen=_KEPT) for part in _PARTS}
        self._intervals_s: deque[float] = deque(maxlen=_KEPT)

    def learn(self, part: Part, seconds: float, alone: bool = False) -> None:
        """Takes in a measurement of a part; `alone` forgets all earlier ones of that part."""
        if alone:
            self._seconds[part].clear()
        self._seconds[part].append(seconds)

    def learn_interval(self, seconds: float) -> None:
        """Takes in the seconds between the ends of two requests while others waited: the inverse of the full rate."""
        self._intervals_s.append(seconds)

    def least_s(self, first: Part = "prepare") -> float:
        """The least seconds from the start of a part to the end of the request."""
        parts = _PARTS[_PARTS.index(first) :]
        return sum(_OPTIMISM * min(self._seconds[part], default=0.0) for part in parts)

    def wait_s(self, ahead: int) -> float:
        """The seconds until so many requests have ended at the full rate."""
        each_s = fmean(self._intervals_s) if self._intervals_s else self.least_s()
        return each_s * ahead
