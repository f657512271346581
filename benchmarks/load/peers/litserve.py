"""LitServe, of Lightning AI: an HTTP server whose one worker process takes photos through a queue."""

from load.peers.callers import HttpCaller, PeerCaller
from load.peers.engine import describe, script
from load.peers.environment import Environment
from load.peers.peer import Launch, Peer, Place

_ENVIRONMENT = Environment("litserve")


def litserve(threads: int, photo: bytes) -> Peer:
    """Returns the peer: as shipped with 0 threads. Its worker takes one photo at a time in both comparisons."""
    settings = {
        "versions": _ENVIRONMENT.versions(("litserve", "fastapi", "uvicorn")),
        "transport": "HTTP, form",
        "server": "one worker, no batches, no timeout",
        **describe(_ENVIRONMENT, threads),
    }

    def launch(place: Place) -> Launch:
        return script("litserve_server.py", place, threads)

    def caller(port: int) -> PeerCaller:
        return HttpCaller(f"http://127.0.0.1:{port}/predict", "photo")

    return Peer("LitServe", settings, _ENVIRONMENT, launch, caller, photo)
