"""Runs a server, and ends it with all that it started, however the benchmark itself ends.

A process of its own, in a session of its own: Ctrl-C reaches it only through the benchmark. It is the parent of
whatever the server leaves behind, daemons included, so that nothing can hide from it. It needs Linux.

Started as `python keeper.py COMMAND...`, with a pipe as its input that nobody writes to: when the pipe closes, the
benchmark is gone.
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
    """Returns once none of them is left."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this system keeps no hold of a server's daemons")
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
