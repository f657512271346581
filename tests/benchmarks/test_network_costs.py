"""`make bench-networks`: how deadlines are judged, and the benchmark in miniature."""

import json
import os
import time
from pathlib import Path

import network_costs
import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is Linux's to tell")


class Scripted(network_costs.Caller):
    """A caller whose usual call takes 0.4 s, whose failures take 0.1 s, and whom a stopped run holds up."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s, self.stopped, self.limits = delay_s, False, list[float]()

    def seconds(self) -> float:
        delay_s, self.stopped = self.delay_s if self.stopped else 0.0, False
        return 0.4 + delay_s

    def seconds_to_failure(self, timeout_s: float) -> float:
        self.limits.append(timeout_s)
        self.stopped = True
        return 0.1

    def hang_up_after(self, seconds: float) -> None:
        self.limits.append(seconds)
        self.stopped = True


@pytest.mark.parametrize(("delay_s", "runs", "misses"), [(0.03, 0.1, False), (0.09, 0.3, False), (0.2, 0.667, True)])
def test_what_deadlines_cost(delay_s: float, runs: float, misses: bool) -> None:
    """The network has 0.3 of the 0.4 s. A third of a call is 0.133 s, of which a failure after 0.1 s is 0.75."""
    caller = Scripted(delay_s)
    known, unknown = network_costs.known_pace(caller, 0.3, 0.4), network_costs.unknown_pace(caller, 0.3, 0.4)
    assert known == {"known_pace_failure_in_timeouts": 0.75, "delay_after_hanging_up_in_runs": runs}
    assert unknown == {"unknown_pace_failure_in_timeouts": 0.75, "delay_after_deadline_in_runs": runs}
    assert caller.limits == [pytest.approx(0.4 / 3)] * 15
    assert [network_costs.misses(found) for found in (known, unknown)] == [misses, misses]


def test_failures_that_come_late_miss_the_goal() -> None:
    assert network_costs.misses({"known_pace_failure_in_timeouts": 1.31})
    assert network_costs.misses({"unknown_pace_failure_in_timeouts": 1.31})
    assert not network_costs.misses({"unknown_pace_failure_in_timeouts": 1.3})
    assert not network_costs.misses(None)


def test_memory() -> None:
    before = network_costs.memory_mib(os.getpid(), "VmRSS")
    held = b"x" * (256 * 1024 * 1024)
    assert network_costs.memory_mib(os.getpid(), "VmRSS") - before == pytest.approx(len(held) / 1024**2, abs=16)
    del held
    assert network_costs.memory_mib(os.getpid(), "VmHWM") >= before + 240


def test_networks(brightness_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began_s = time.perf_counter()
    options = ["--rounds", "3", "--heavy-ms", "1e9", "--json", str(tmp_path / "out.json")]
    assert network_costs.main(["--models", str(brightness_model), *options]) == 0
    took_s = time.perf_counter() - began_s
    report = json.loads((tmp_path / "out.json").read_text())
    (found,) = report["networks"]
    assert (found["network"], found["input_px"], found["precision"]) == ("brightness", [80, 80], "fp32")
    assert found["file_mb"] == round(brightness_model.stat().st_size / 1e6, 1)
    assert len(found["infer_ms"]) == len(found["request_ms"]) == 3
    assert all(0 < infer < whole for infer, whole in zip(found["infer_ms"], found["request_ms"], strict=True))
    assert 0 < found["start_s"] < took_s
    assert min(found["rest_mib"], found["peak_mib"]) > 20  # Python and gRPC alone take more
    assert found["deadlines"] is None
    assert "80x80" in capsys.readouterr().out
    assert report["machine"]["cores"] >= 1


def test_the_size_of_the_input_is_that_of_the_photo(colour_model: Path, brightness_model: Path) -> None:
    """A short side of 64 px makes the long side 64 * 1000 / 667 = 95.95 px, rounded down."""
    assert network_costs.input_px(colour_model) == (95, 64)
    assert network_costs.input_px(brightness_model) == (80, 80)
