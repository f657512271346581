"""rembg's own HTTP server, `rembg s`: the background removal that most people know.

It runs its own pixel code (Pillow, scipy) in both comparisons, as that can't be replaced.
"""

from load.peers.callers import HttpCaller, PeerCaller
from load.peers.environment import Environment
from load.peers.peer import Launch, Peer, Place

_ENVIRONMENT = Environment("rembg")


def rembg(threads: int, photo: bytes) -> Peer:
    """Returns the peer: as shipped with 0 threads, else with that many of ONNX Runtime and of the server."""
    # The web page is on by default, and uses processor time even when nobody looks at it.
    flags = ("--no-ui", "--threads", str(threads)) if threads else ()
    variables = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    settings = {
        "versions": _ENVIRONMENT.versions(("rembg", "onnxruntime", "pillow", "numpy", "fastapi", "uvicorn")),
        "transport": "HTTP, form",
        "server": " ".join(flags) or "defaults: 40 threads, page on",
        "engine": f"{threads} threads (OMP_NUM_THREADS), spinning" if threads else "ONNX Runtime's defaults",
        "pixels": "rembg's: Pillow, LANCZOS, PNG level 6",
    }

    def launch(place: Place) -> Launch:
        command = (str(place.binaries / "rembg"), "s", "--host", "127.0.0.1", "--port", str(place.port), *flags)
        # rembg opens a browser when it starts, and gradio looks for a newer version.
        quiet = {"BROWSER": "true", "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        home = {"U2NET_HOME": str(place.model.parent), "HOME": str(place.folder)}
        return Launch(command, variables | quiet | home)

    def caller(port: int) -> PeerCaller:
        return HttpCaller(f"http://127.0.0.1:{port}/api/remove", "file", (("model", "u2netp"),))

    return Peer("rembg", settings, _ENVIRONMENT, launch, caller, photo)
