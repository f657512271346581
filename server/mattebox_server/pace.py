"""What a model's requests took lately, and so what the next ones will take."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

_KEPT = 16  # measurements: enough for a median, few enough to forget a bad minute
_OPTIMISM = 0.9  # share of the shortest measured time that is taken for the least that is needed
# Refused requests measure nothing. After so many in a row the estimates are dropped and one request tries again, so
# that a server which was slow once doesn't refuse for ever.
_VAIN_REFUSALS = 32


def _recent() -> deque[float]:
    return deque(maxlen=_KEPT)


@dataclass
class Pace:
    """Measurements of one model. Unmeasured, it expects everything to take no time at all.

    Attributes:
        prepare_s: of decoding and preprocessing.
        infer_s: of the network.
        finish_s: of matte, blend and encoding.
        interval_s: between two requests that ended, while others waited: the inverse of the rate at full load.
    """

    prepare_s: deque[float] = field(default_factory=_recent)
    infer_s: deque[float] = field(default_factory=_recent)
    finish_s: deque[float] = field(default_factory=_recent)
    interval_s: deque[float] = field(default_factory=_recent)
    _refusals: int = 0

    def record(self, prepare_s: float, infer_s: float, finish_s: float) -> None:
        """Takes in a request that was answered."""
        self.prepare_s.append(prepare_s)
        self.infer_s.append(infer_s)
        self.finish_s.append(finish_s)
        self._refusals = 0

    @property
    def whole_s(self) -> float:
        """The least seconds from the first byte decoded to the last one encoded."""
        return self.after_prepare_s + _least(self.prepare_s)

    @property
    def after_prepare_s(self) -> float:
        """The least seconds from the start of the network to the end."""
        return _least(self.infer_s) + self.after_infer_s

    @property
    def after_infer_s(self) -> float:
        """The least seconds from the end of the network to the end."""
        return _least(self.finish_s)

    def wait_s(self, ahead: int) -> float:
        """Seconds until this many requests have ended at full load."""
        each_s = median(self.interval_s) if self.interval_s else self.whole_s
        return each_s * ahead

    def refuse_in_vain(self) -> bool:
        """To be asked before a refusal that rests on measurements alone; False: let it try."""
        self._refusals += 1
        if self._refusals <= _VAIN_REFUSALS:
            return True
        for measured in (self.prepare_s, self.infer_s, self.finish_s, self.interval_s):
            measured.clear()
        self._refusals = 0
        return False


def _least(measured: deque[float]) -> float:
    return _OPTIMISM * min(measured, default=0.0)
