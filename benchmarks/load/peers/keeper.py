"""Runs a server, and ends it and all of its descendants, however the benchmark itself ends.

The keeper is a process in a session of its own, so that Ctrl-C doesn't reach it. It adopts the processes that the
server leaves behind, daemons included (`PR_SET_CHILD_SUBREAPER`, which only Linux has).

It is started as `python keeper.py COMMAND...` with a pipe as its standard input to which nobody writes: the pipe closes
when the benchmark ends.
"""

import contextlib
import ctypes
import select
import signal
import subprocess
import sys

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 5.0


def main() -> None:
    """Runs the command and returns once neither it nor a descendant is left."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this system doesn't let a process adopt a server's daemons")
    signal.signal(signal.SIGTERM, _leave)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None and not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(process)


def _leave(_signal: int, _frame: object) -> None:
    sys.exit()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the server to stop, then kills whatever is left."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    while left := psutil.Process().children(recursive=True):
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left, timeout=1)


if __name__ == "__main__":
    main()
