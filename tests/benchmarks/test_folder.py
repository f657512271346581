"""`make bench-folder` in miniature."""

import re
from pathlib import Path

import pytest
from folder import main


def test_the_exit_code_says_whether_the_goal_was_missed(colour_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ratio depends on the machine's load; the exit code follows from it."""
    code = main(["--photos", "2", "--concurrency", "1", "--rounds", "1", "--model", str(colour_model)])
    printed = capsys.readouterr().out
    (rates,) = re.findall(r"^closed loop (\S+)/s, folder (\S+)/s, ratio (\S+)$", printed, re.MULTILINE)
    alone_hz, folder_hz, ratio = map(float, rates)
    assert ratio == pytest.approx(folder_hz / alone_hz, abs=0.02)
    assert f"median ratio {rates[2]}, goal at least 0.9" in printed
    assert code == int(ratio < 0.9)
