"""`make bench-folder`: photos a second of `mattebox remove FOLDER`, as a share of those of a closed loop."""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from chaos.callers import closed_loop, photo_of
from machine import describe_machine
from material import shipped_model

from mattebox_server.local import LocalServer

SIZE_PX = 1000, 667


def main(argv: Sequence[str] | None = None) -> int:
    """Prints each round and the median; returns 1 if the median is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=60, help="photos in the folder (default: 60)")
    parser.add_argument("--concurrency", type=int, default=8, help="photos under way at a time (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both, in turns (default: 3)")
    parser.add_argument("--model", type=Path, help="model file (default: U²-Net-p)")
    arguments = parser.parse_args(argv)
    photo = photo_of(*SIZE_PX)
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name, LocalServer([arguments.model or shipped_model()]) as server:
        folder = Path(name) / "photos"
        folder.mkdir()
        for number in range(arguments.photos):
            (folder / f"{number:04}.jpg").write_bytes(photo)
        asyncio.run(closed_loop(server.address, photo, arguments.concurrency, 3))
        for _ in range(arguments.rounds):
            alone_hz = _closed_loop_hz(server.address, photo, arguments.photos, arguments.concurrency)
            folder_hz = arguments.photos / _remove_s(server.address, folder, arguments.concurrency)
            ratios.append(folder_hz / alone_hz)
            print(f"closed loop {alone_hz:.2f}/s, folder {folder_hz:.2f}/s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f}, goal at least 0.9 ({describe_machine()})")
    return int(median(ratios) < 0.9)


def _closed_loop_hz(address: str, photo: bytes, photos: int, concurrency: int) -> float:
    """Returns the photos a second of a closed loop that lasts about as long as this many photos take."""
    (first,) = asyncio.run(closed_loop(address, photo, 1, 0))
    started_s = time.monotonic()
    outcomes = asyncio.run(closed_loop(address, photo, concurrency, first.seconds * photos))
    return len(outcomes) / (time.monotonic() - started_s)


def _remove_s(address: str, folder: Path, concurrency: int) -> float:
    """Returns the seconds of the whole command, from the start of its process."""
    command = [sys.executable, "-m", "mattebox", "remove", str(folder), "-o", str(folder.parent / "out")]
    started_s = time.monotonic()
    options = ["--address", address, "--concurrency", str(concurrency), "--format", "jpeg"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return time.monotonic() - started_s


if __name__ == "__main__":
    sys.exit(main())
