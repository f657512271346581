"""`make bench-faults`: how figures are judged, and three scenarios in miniature."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.callers import quantile
from chaos.report import Report, Row
from faults import main

FIGURES = {
    "deadlines": [
        "calls with too little time",
        "answered all the same",
        "share that the network ran for",
        "processor time / that of as many answers",
        "share refused within 50 ms",
    ],
    "fuzz": [
        "photos through the codec",
        "requests through the server",
        "unexpected statuses",
        "slowest answer s",
        "server's memory after / before",
        "servers that crashed",
    ],
    "soak": [
        "requests and bytes in flight afterwards",
        "minutes",
        "requests",
        "memory: MiB a minute after warm-up",
        "descriptors: end / start of the second half",
        "threads: end / start of the second half",
    ],
}
Scenario = Callable[[str], tuple[dict[str, Row], int]]


@pytest.fixture
def scenario(colour_model: Path, tmp_path: Path) -> Scenario:
    """Runs a scenario with a network of a few nodes; returns its figures by name, and the exit code."""

    def run(name: str) -> tuple[dict[str, Row], int]:
        file = tmp_path / "out.json"
        short = ["--seconds", "2", "--soak-minutes", "0.1", "--model", str(colour_model)]
        code = main(["--only", name, *short, "--json", str(file)])
        rows = [Row(*row) for row in json.loads(file.read_text())["scenarios"][name]]
        assert [row.figure for row in rows] == FIGURES[name]
        return {row.figure: row for row in rows}, code

    return run


def test_a_figure_meets_its_goal_up_to_the_bound() -> None:
    report = Report("made up")
    report.add("at the upper bound", 2.0, most=2)
    report.add("above it", 2.001, most=2)
    report.add("at the lower bound", 0.9, least=0.9)
    report.add("below it", 0.8999, least=0.9)
    report.add("without a goal", 12345.6)
    assert report.rows == [
        Row("at the upper bound", "2", "at most 2", True),
        Row("above it", "2.001", "at most 2", False),
        Row("at the lower bound", "0.9", "at least 0.9", True),
        Row("below it", "0.8999", "at least 0.9", False),
        Row("without a goal", "1.235e+04", "", None),
    ]
    assert report.missed == ["above it", "below it"]


def test_quantiles() -> None:
    values = [3.0, 1.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0, 0.25, 0.5, 0.99, 1)] == [1, 2, 3, 4, 4]


def test_the_exit_code_says_whether_a_goal_was_missed(scenario: Scenario) -> None:
    """The figures depend on the machine's load; the exit code follows from them."""
    rows, code = scenario("deadlines")
    assert code == int(any(row.met is False for row in rows.values()))
    assert {name: row.goal for name, row in rows.items()} == {
        "calls with too little time": "",
        "answered all the same": "",
        "share that the network ran for": "at most 0.05",
        "processor time / that of as many answers": "",
        "share refused within 50 ms": "at least 0.95",
    }


def test_broken_photos_and_requests_are_all_refused_by_known_statuses(scenario: Scenario) -> None:
    rows, _ = scenario("fuzz")
    assert rows["photos through the codec"].value == "400"
    assert rows["requests through the server"].value == "200"
    for figure in ("unexpected statuses", "servers that crashed"):
        assert rows[figure] == Row(figure, "0", "at most 0", True)


def test_nothing_is_left_of_a_mixed_load(scenario: Scenario) -> None:
    rows, _ = scenario("soak")
    left = "requests and bytes in flight afterwards"
    assert rows[left] == Row(left, "0", "at most 0", True)
    assert rows["minutes"].value == "0.1"
