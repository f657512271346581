"""The servers that are measured."""

import os
from pathlib import Path

from load.drivers import Subject
from load.ours import Mattebox
from load.peers import Comparison, peers
from load.photos import one_photo


def subjects(comparison: Comparison, model: Path, names: tuple[str, ...]) -> list[Subject]:
    """Returns Mattebox and its peers.

    Args:
        comparison: "same engine" compares the servers alone, "as shipped" what a user gets.
        model: Mattebox's artifact; the peers run U²-Net-p.
        names: names of the servers to measure; empty for all.
    """
    threads = len(os.sched_getaffinity(0))
    same = ("--provider", "cpu", "--precision", "fp32", "--threads", str(threads))
    ours = Mattebox(model, same if comparison == "same engine" else ())
    everyone: list[Subject] = [ours, *peers(comparison, threads, one_photo().files[0])]
    unknown = set(names) - {subject.name for subject in everyone}
    if unknown:
        raise SystemExit(f"load: --subjects knows {', '.join(each.name for each in everyone)}, not {sorted(unknown)}")
    return [subject for subject in everyone if not names or subject.name in names]
