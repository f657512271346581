"""`make bench-networks`: what each network costs behind a server of its own with default settings, on Linux.

One caller sends a JPEG of 1000x667 that becomes a PNG cutout. A network whose run takes at least `--heavy-ms` also has
to keep deadlines. A call with a third of the time that it needs is refused at once where the server knows the network's
pace, and stopped in time on a new server, which doesn't; neither that run nor one whose caller hangs up holds up the
next call. What counts are the ratios within one run; milliseconds and memory are this machine's.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from chaos.callers import photo_of
from machine import describe_machine
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mattebox.v1 import background_removal_pb2 as pb
from mattebox.v1 import background_removal_pb2_grpc as pb_grpc
from mattebox_server.engine.artifact import read_artifact
from mattebox_server.imaging.preprocess import preprocess
from mattebox_server.local import LocalServer

FROM_PYPI = ("u2netp", "selfie", "selfie_landscape")
SIZE_PX = 1000, 667
SHARE = 1 / 3  # of the time that a call needs: the deadline, and the time after which a caller hangs up
MOST_OF_TIMEOUT = 1.3
MOST_DELAY = 0.33  # in runs; a run that isn't stopped delays the next call by two thirds of itself
_TRIALS = 5
_MIB = 1024

Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, writes JSON, and returns 1 if a network misses a goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=FROM_PYPI, help="names and files (default: those of PyPI)")
    parser.add_argument("--rounds", type=int, default=15, help="photos of each network (default: 15)")
    parser.add_argument("--heavy-ms", type=float, default=100, help="shortest run that is judged (default: 100)")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/networks-DATE.json")
    arguments = parser.parse_args(argv)
    machine = describe_machine()
    print(f"{machine['processor']}, {machine['class']}, {machine['cores']} cores, {arguments.rounds} photos each")
    networks = [measure(model, arguments.rounds, arguments.heavy_ms) for model in arguments.models]
    show(networks)
    path = arguments.json or Path("benchmarks/results") / f"networks-{datetime.now(UTC):%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "photo_px": SIZE_PX, "networks": networks}, indent=1) + "\n")
    print(f"wrote {path}")
    return int(any(misses(network["deadlines"]) for network in networks))


def measure(model: str, rounds: int, heavy_ms: float) -> Report:
    """Measures a network behind the second of two servers: the first one may have to make the model and to compile."""
    with LocalServer([model]):
        pass
    began_s = time.perf_counter()
    with LocalServer([model]) as server, grpc.insecure_channel(server.address) as channel:
        report: Report = {"start_s": round(time.perf_counter() - began_s, 2)}
        report["rest_mib"] = memory_mib(server.pid, "VmRSS")
        caller = Caller(channel)
        caller.seconds()  # the first call opens the connection
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # forgets the peak so far
        request_ms = [round(caller.seconds() * 1000, 2) for _ in range(rounds)]
        report["peak_mib"] = memory_mib(server.pid, "VmHWM")
        infer_ms = [round(answer.timings.infer.ToNanoseconds() / 1e6, 2) for answer in caller.answers[1:]]
        report |= {"infer_ms": infer_ms, "request_ms": request_ms, "deadlines": None}
        run_s, call_s = median(infer_ms) / 1000, median(request_ms) / 1000
        if run_s * 1000 >= heavy_ms:
            report["deadlines"] = known_pace(caller, run_s, call_s)
    if report["deadlines"] is not None:
        with LocalServer([model]) as new, grpc.insecure_channel(new.address) as channel:
            grpc.channel_ready_future(channel).result()
            report["deadlines"] |= unknown_pace(Caller(channel), run_s, call_s)
    path = next(Path(event["path"]) for event in server.events if event["event"] == "model loaded")
    execution = caller.answers[0].execution
    names = {"network": execution.model, "provider": execution.provider, "precision": execution.precision}
    return names | {"input_px": input_px(path), "file_mb": round(path.stat().st_size / 1e6, 1)} | report


class Caller:
    """One caller, who asks for cutouts of one photo and never tries again.

    Args:
        channel: the channel to the server.

    Attributes:
        answers: the answers so far.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = pb_grpc.BackgroundRemovalServiceStub(channel)
        background, output = pb.Background(transparent=pb.Transparent()), pb.Output(format=pb.IMAGE_FORMAT_PNG)
        self._request = pb.RemoveBackgroundRequest(encoded=photo_of(*SIZE_PX), background=background, output=output)
        self.answers: list[pb.RemoveBackgroundResponse] = []

    def seconds(self) -> float:
        """Makes a call and returns how long it took."""
        began_s = time.perf_counter()
        self.answers.append(self._stub.RemoveBackground(self._request))
        return time.perf_counter() - began_s

    def seconds_to_failure(self, timeout_s: float) -> float:
        """Makes a call that is too slow for its deadline. Raises ValueError if it isn't."""
        began_s = time.perf_counter()
        try:
            self._stub.RemoveBackground(self._request, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return time.perf_counter() - began_s
        raise ValueError(f"a call with a timeout of {timeout_s} s was answered")

    def hang_up_after(self, seconds: float) -> None:
        """Makes a call and cancels it."""
        call = self._stub.RemoveBackground.future(self._request)
        time.sleep(seconds)
        call.cancel()


def known_pace(caller: Caller, run_s: float, call_s: float) -> dict[str, float]:
    """Measures a server that has answered before; medians.

    Returns:
        Time until a call with a third of its time fails, in timeouts; and what the next call takes longer than usual
        after a caller has hung up in the middle of a run, in runs.
    """
    short_s = call_s * SHARE
    failures: list[float] = []
    delays: list[float] = []
    for _ in range(_TRIALS):
        failures.append(caller.seconds_to_failure(short_s) / short_s)
        caller.hang_up_after(short_s)
        delays.append((caller.seconds() - call_s) / run_s)
    return {
        "known_pace_failure_in_timeouts": round(median(failures), 3),
        "delay_after_hanging_up_in_runs": round(median(delays), 3),
    }


def unknown_pace(caller: Caller, run_s: float, call_s: float) -> dict[str, float]:
    """Measures a server that has answered nothing yet, so that it has to stop each run when its deadline passes.

    Returns:
        Time until the calls fail, in timeouts (median); and what the next call takes longer than those after it, in
        runs.
    """
    short_s = call_s * SHARE
    failures = [caller.seconds_to_failure(short_s) / short_s for _ in range(_TRIALS)]
    first_s, *later_s = (caller.seconds() for _ in range(_TRIALS))
    return {
        "unknown_pace_failure_in_timeouts": round(median(failures), 3),
        "delay_after_deadline_in_runs": round((first_s - median(later_s)) / run_s, 3),
    }


def misses(deadlines: dict[str, float] | None) -> bool:
    """Whether a network that was judged misses one of the goals."""
    if deadlines is None:
        return False
    most = {name: MOST_OF_TIMEOUT if name.endswith("timeouts") else MOST_DELAY for name in deadlines}
    return any(deadlines[name] > most[name] for name in deadlines)


def input_px(artifact: Path) -> tuple[int, int]:
    """Returns width and height of what the network gets of the photo."""
    photo = np.zeros((SIZE_PX[1], SIZE_PX[0], 3), np.uint8)
    height_px, width_px = preprocess(photo, read_artifact(artifact).spec.resize).image.shape[:2]
    return width_px, height_px


def memory_mib(pid: int, field: str) -> int:
    """Returns one of the kernel's figures of a process: resident now (VmRSS), or the most so far (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) // _MIB


def show(networks: Sequence[Report]) -> None:
    """Prints one row for each network."""
    table = Table(box=SIMPLE)
    columns = "input", "precision", "provider", "network ms", "request ms", "start s", "rest MiB", "peak MiB", "file MB"
    judged = {
        "known_pace_failure_in_timeouts": "refused / timeout",
        "unknown_pace_failure_in_timeouts": "stopped / timeout",
        "delay_after_deadline_in_runs": "delay / run",
        "delay_after_hanging_up_in_runs": "hung up, delay / run",
    }
    for column in ("network", *columns, *judged.values()):
        name = column == "network"
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    for row in networks:
        cells = ["x".join(map(str, row["input_px"])), row["precision"], row["provider"]]
        cells += [f"{median(row[name]):.1f}" for name in ("infer_ms", "request_ms")]
        cells += [str(row[name]) for name in ("start_s", "rest_mib", "peak_mib", "file_mb")]
        cells += ["-" if row["deadlines"] is None else str(row["deadlines"][name]) for name in judged]
        table.add_row(row["network"], *cells)
    Console(width=180).print(table)


if __name__ == "__main__":
    sys.exit(main())
