"""Who is measured."""

import os
from pathlib import Path

from load.drivers import Subject
from load.ours import Mattebox
from load.peers import Comparison, peers
from load.photos import one_photo


def subjects(comparison: Comparison, model: Path, names: tuple[str, ...]) -> list[Subject]:
    """Mattebox, and its peers where they are asked for.

    Args:
        comparison: of the server alone, or of what a user gets.
        model: Mattebox's artifact; the peers have U²-Net-p.
        names: of those wanted; empty for all.
    """
    threads = len(os.sched_getaffinity(0))
    same = ("--provider", "cpu", "--precision", "fp32", "--engine-threads", str(threads))
    ours = Mattebox(model, same if comparison == "same engine" else ())
    everyone: list[Subject] = [ours, *peers(comparison, threads, one_photo().files[0])]
    unknown = set(names) - {subject.name for subject in everyone}
    if unknown:
        raise SystemExit(f"load: --subjects knows {', '.join(each.name for each in everyone)}, not {sorted(unknown)}")
    return [subject for subject in everyone if not names or subject.name in names]
