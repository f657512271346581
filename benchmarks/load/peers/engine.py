"""What the servers without a background removal of their own have in common: `servers/cutout.py`."""

from load.peers.environment import Environment
from load.peers.peer import SERVERS, Launch, Place


def describe(environment: Environment, threads: int) -> dict[str, str]:
    """Settings of the report; 0 threads: as shipped."""
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
    """Where rembg finds the network, and where the server may leave files."""
    path = f"{place.binaries}:/usr/local/bin:/usr/bin:/bin"
    return {"U2NET_HOME": str(place.model.parent), "HOME": str(place.folder), "PATH": path}


def script(name: str, place: Place, threads: int) -> Launch:
    """A server that is a script of `servers/`."""
    told = ("--port", str(place.port), "--model", str(place.model), "--threads", str(threads))
    return Launch((str(place.binaries / "python"), str(SERVERS / name), *told), variables(place))
