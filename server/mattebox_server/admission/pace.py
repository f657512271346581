"""What a model's requests took lately, and so what the next ones will take."""

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

_KEPT = 16  # measurements: enough for a mean, few enough to forget a bad minute
_OPTIMISM = 0.9  # share of the shortest measured time that is taken for the least that is needed
# Refused requests measure nothing. After so many in a row one is let try, whose measurements replace all others, so
# that a server which was slow once doesn't refuse for ever.
_REFUSALS_A_TRIAL = 48


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

    def record(self, stage: deque[float], seconds: float, trial: bool = False) -> None:
        """Takes in a measurement; that of a trial instead of all others. Any thread may call."""
        if trial:
            stage.clear()
        stage.append(seconds)

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
        each_s = fmean(self.interval_s) if self.interval_s else self.whole_s
        return each_s * ahead

    def is_trial(self) -> bool:
        """To be asked before a refusal that rests on measurements alone; True: let it try."""
        self._refusals = (self._refusals + 1) % (_REFUSALS_A_TRIAL + 1)
        return self._refusals == 0


def _least(measured: deque[float]) -> float:
    return _OPTIMISM * min(measured, default=0.0)
