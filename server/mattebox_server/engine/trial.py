"""A trial: another process compiles a network and runs its check photo, before this one dares to.

OpenVINO was reported to crash the process that compiles, on a virtual machine whose processor hid some of its caches.
`auto` must not end like that. So a process of its own goes first, and where that crashes the provider is left out.
With a cache nothing is done twice: the child puts the compiled network there, and a network that is there needs no
trial. A crash is remembered there too.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from mattebox_server.engine.artifact import Artifact, read_artifact
from mattebox_server.engine.cache import CacheEntry
from mattebox_server.engine.config import EngineConfig, ProviderName, ProviderUnavailable, RequestedPrecision
from mattebox_server.engine.opening import cache_entry, is_compiled
from mattebox_server.engine.phases import phase
from mattebox_server.engine.plan import Device, Plan
from mattebox_server.engine.providers import find_device
from mattebox_server.engine.proving import open_checked, plans
from mattebox_server.errors import StartupError

LIMIT_S = 120.0
COMMAND = (sys.executable, "-P", "-m", "mattebox_server.engine.trial")
# Signals by which a process ends itself. Others, such as SIGKILL for a lack of memory, say nothing about the processor.
_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP)
_REASON = "reason.txt"


class Crash(Exception):
    """The child crashed, so that it would crash again."""


def require_trial(artifact: Artifact, device: Device, config: EngineConfig) -> None:
    """Has another process open an artifact, unless it was opened on this device before.

    An error that the child finds without crashing is left to this process, which finds it again.

    Raises:
        ProviderUnavailable: the child crashed, now or at an earlier start, or took too long.
    """
    wanted = plans(artifact, device, config)
    if not any(is_compiled(plan) for plan in wanted):
        _try_first(wanted[0])


def _try_first(plan: Plan) -> None:
    memory = cache_entry(plan, "-crash")
    try:
        if memory is not None and memory.is_warm:
            raise ProviderUnavailable(f"{(memory.folder / _REASON).read_text()} at an earlier start: {memory.folder}")
        with phase("trial", plan.artifact.spec.name, plan.provider, plan.config.observer):
            _run_child(plan)
    except Crash as error:
        _remember(memory, str(error))
        raise ProviderUnavailable(str(error)) from error
    finally:
        if memory is not None:
            memory.discard()


def _run_child(plan: Plan) -> None:
    config = plan.config
    arguments = [str(plan.artifact.path), plan.provider, config.precision, str(config.threads_per_run)]
    cache = [] if config.cache_dir is None else [str(config.cache_dir)]
    # The pipe closes when this process ends, however that happens, and then the child ends itself.
    with subprocess.Popen([*COMMAND, *arguments, *cache], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:  # noqa: S603
        try:
            code = child.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise ProviderUnavailable(f"a trial of the network took longer than {LIMIT_S:g} s") from error
        finally:
            child.kill()
    if -code in _CRASHES:
        raise Crash(f"a trial of the network crashed by {signal.Signals(-code).name}")
    if code:
        end = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise ProviderUnavailable(f"a trial of the network ended {end}")


def _remember(memory: CacheEntry | None, reason: str) -> None:
    if memory is not None:
        with contextlib.suppress(OSError):  # the disk is full: the next start tries again
            (memory.folder / _REASON).write_text(reason)
            memory.publish()


def main(arguments: Sequence[str]) -> int:
    """The child: opens an artifact as its parent would, into the cache if there is one.

    Args:
        arguments: path of the artifact, provider, precision, number of threads, and the cache's folder if there is one.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path, provider, precision, threads, *cache = arguments
    config = EngineConfig(
        precision=cast(RequestedPrecision, precision),
        threads=int(threads),
        cache_dir=Path(cache[0]) if cache else None,
    )
    with contextlib.suppress(ProviderUnavailable, StartupError):  # for the parent to find, who can say it
        open_checked(read_artifact(Path(path)), find_device(cast(ProviderName, provider)), config)
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent has closed its end
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
