"""Settings and commands of the servers that run `servers/cutout.py`, as they have no background removal themselves."""

from load.peers.environment import Environment
from load.peers.peer import SERVERS, Launch, Place


def describe(environment: Environment, threads: int) -> dict[str, str]:
    """Returns the engine's and the pixels' settings for the report; 0 threads stand for "as shipped"."""
    if not threads:
        return {
            "engine": "ONNX Runtime's defaults, " + environment.versions(("rembg", "onnxruntime")),
            "pixels": "rembg.remove: LANCZOS, PNG level 6, " + environment.versions(("pillow", "numpy")),
        }
    return {
        "engine": f"CPU provider, fp32, {threads} threads, no spinning, " + environment.versions(("onnxruntime",)),
        "pixels": "OpenCV: INTER_AREA, PNG at its defaults, " + environment.versions(("opencv-python-headless",)),
    }


def variables(place: Place) -> dict[str, str]:
    """Returns the environment variables that say where the network is and where the server may write files."""
    path = f"{place.binaries}:/usr/local/bin:/usr/bin:/bin"
    return {"U2NET_HOME": str(place.model.parent), "HOME": str(place.folder), "PATH": path}


def script(name: str, place: Place, threads: int) -> Launch:
    """Returns how a script in `servers/` is started."""
    flags = ("--port", str(place.port), "--model", str(place.model), "--threads", str(threads))
    return Launch((str(place.binaries / "python"), str(SERVERS / name), *flags), variables(place))
