"""BentoML: an HTTP server; photos reach its method as temporary files."""

from load.peers.callers import HttpCaller, PeerCaller
from load.peers.engine import describe, variables
from load.peers.environment import Environment
from load.peers.peer import SERVERS, Launch, Peer, Place

_ENVIRONMENT = Environment("bentoml")


def bentoml(threads: int, photo: bytes) -> Peer:
    """Returns the peer: as shipped with 0 threads, else with a worker that answers that many photos at once."""
    settings = {
        "versions": _ENVIRONMENT.versions(("bentoml", "starlette", "uvicorn")),
        "transport": "HTTP, form",
        "server": f"one worker, {threads or 1} at once, timeout 600 s",
        **describe(_ENVIRONMENT, threads),
    }

    def launch(place: Place) -> Launch:
        service = ("--arg", f"model={place.model}", "--arg", f"threads={threads}")
        address = ("--host", "127.0.0.1", "--port", str(place.port), "--working-dir", str(SERVERS))
        command = (str(place.binaries / "bentoml"), "serve", "bentoml_server:Cutouts", *address, *service)
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(place.folder)}
        # BentoML looks for its workers' Python on the path.
        return Launch(command, variables(place) | quiet)

    def caller(port: int) -> PeerCaller:
        return HttpCaller(f"http://127.0.0.1:{port}/remove", "photo")

    return Peer("BentoML", settings, _ENVIRONMENT, launch, caller, photo)
