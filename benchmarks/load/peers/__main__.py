"""`python -m load.peers NAME`, in `benchmarks/`: whether a peer runs here, what it answers, and how fast."""

import argparse
import asyncio
import os
import time
from pathlib import Path
from statistics import median

import psutil

from load.drivers import CannotRun
from load.peers import peers
from load.peers.callers import PeerCaller
from load.peers.peer import Peer, RunningPeer
from load.photos import one_photo

_CALLS, _AT_ONCE, _TIMEOUT_S = 10, 4, 60.0


def main() -> int:
    """Tries the peers; returns 1 if one of them can't run or answers with another status than OK."""
    parser = argparse.ArgumentParser(prog="python -m load.peers", description=__doc__)
    names = [peer.name for peer in peers("as shipped", 0, b"")]
    parser.add_argument("name", nargs="*", choices=[[], *names], help=f"peers, of {', '.join(names)} (default: all)")
    parser.add_argument("--same-engine", action="store_true", help="compare with the same engine (default: as shipped)")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="engine threads of the same engine (default: all cores)",
    )
    parser.add_argument("--out", type=Path, help="folder for one cutout of each peer")
    arguments = parser.parse_args()
    photo = one_photo().files[0]
    chosen = peers("same engine" if arguments.same_engine else "as shipped", arguments.threads, photo)
    return max([_try(peer, photo, arguments.out) for peer in chosen if peer.name in (arguments.name or names)])


def _try(peer: Peer, photo: bytes, out: Path | None) -> int:
    print(f"{peer.name}: " + "; ".join(f"{name}: {value}" for name, value in peer.settings.items()), flush=True)
    try:
        peer.prepare()
        began_s = time.monotonic()
        with peer.start() as running:
            print(f"  first answer after {time.monotonic() - began_s:.1f} s", flush=True)
            file, answered = asyncio.run(_look(running, photo))
            memory_bytes = sum(psutil.Process(pid).memory_info().rss for pid in running.pids)
            print(f"  {len(running.pids)} processes, {memory_bytes / 2**20:.0f} MiB")
    except CannotRun as reason:
        print(f"  can't run: {reason}")
        return 1
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{peer.name}.png").write_bytes(file)
    return int(not answered)


async def _look(running: RunningPeer, photo: bytes) -> tuple[bytes, bool]:
    """Makes ten calls, then ten on each of four connections; returns a cutout and whether all calls were answered."""
    caller = await running.connect()
    times_s: list[float] = []
    status, file = "", b""
    for _ in range(_CALLS):
        began_s = time.perf_counter()
        status, file = await caller.fetch(photo, _TIMEOUT_S)
        times_s.append(time.perf_counter() - began_s)
        if status != "OK":
            break
    await caller.close()
    print(f"  {status}, {len(file)} bytes, p50 {1000 * median(times_s):.0f} ms")
    if status != "OK":
        return b"", False
    callers = [await running.connect() for _ in range(_AT_ONCE)]
    began_s = time.perf_counter()
    turns = await asyncio.gather(*(_in_turn(each, photo) for each in callers))
    statuses = [status for turn in turns for status in turn]
    took_s = time.perf_counter() - began_s
    print(f"  {len(callers)} at once: {len(statuses) / took_s:.1f} a second")
    return file, all(status == "OK" for status in statuses)


async def _in_turn(caller: PeerCaller, photo: bytes) -> list[str]:
    """Makes ten calls one after the other and returns their statuses."""
    statuses = [(await caller.call(photo, _TIMEOUT_S)).status for _ in range(_CALLS)]
    await caller.close()
    return statuses


if __name__ == "__main__":
    raise SystemExit(main())
