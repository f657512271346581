"""NVIDIA Triton through PyTriton: the server, in C++, calls a Python process over shared memory.

On Debian 12 it needs the system's Python 3.11 (packages `python3.11-venv`, `libpython3.11`): Triton's Python backend is
a program that is linked against libpython3.11.so.1.0 and finds the standard library from there. The system's library is
where the loader looks, and belongs to the same standard library.
A Python that was compiled by hand would need its folder of libraries on LD_LIBRARY_PATH, for Triton alone. Triton's own
libraries come with the wheel, in `nvidia_pytriton.libs`, where its programs look; there is nothing to set. PyTriton
wants numpy 1, which the newest rembg refuses, so that pip takes an older rembg; its `remove` does the same here.
"""

from pathlib import Path

from load.peers.callers import GrpcCaller, PeerCaller
from load.peers.engine import describe, script
from load.peers.environment import Environment
from load.peers.messages import InferCodec
from load.peers.peer import Launch, Peer, Place

_ENVIRONMENT = Environment("triton", Path("/usr/bin/python3.11"))


def triton(threads: int, photo: bytes) -> Peer:
    """Returns the peer: as shipped with 0 threads, else with that many instances, which share one engine."""
    settings = {
        "versions": _ENVIRONMENT.versions(("nvidia-pytriton", "numpy")),
        "transport": "gRPC (KServe)",
        "server": f"instances: {threads or 1}, no batches, HTTP and metrics off",
        **describe(_ENVIRONMENT, threads),
    }

    def launch(place: Place) -> Launch:
        started = script("triton_server.py", place, threads)
        return Launch(started.command, {**started.variables, "PYTRITON_HOME": str(place.folder)})

    def caller(port: int) -> PeerCaller:
        return GrpcCaller(f"127.0.0.1:{port}", "/inference.GRPCInferenceService/ModelInfer", InferCodec())

    return Peer("Triton", settings, _ENVIRONMENT, launch, caller, photo)
