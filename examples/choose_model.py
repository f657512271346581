"""Chooses the model of `make demo` before heavy packages are installed.

Prints the model's name, and the reason to standard error.
"""

import os
import sys
import urllib.request
from pathlib import Path

from mattebox_export.catalogue import CATALOGUE

FLAGSHIP, LIGHT = "deeplabv3_resnet101", "u2netp"
TIMEOUT_S = 3.0


def main() -> int:
    """Prints the choice; returns 2 for a name that is not in the catalogue."""
    if len(sys.argv) > 1:
        if sys.argv[1] not in CATALOGUE:
            print(f"demo: no model {sys.argv[1]}; the models are {', '.join(CATALOGUE)}", file=sys.stderr)
            return 2
        name, reason = sys.argv[1], "you asked for it"
    else:
        name, reason = choose()
    print(f"demo: using {name}, because {reason}", file=sys.stderr)
    print(name)
    return 0


def choose() -> tuple[str, str]:
    """Returns a model and the reason: the flagship if its trained weights can be loaded, else the light model."""
    url = CATALOGUE[FLAGSHIP].weights
    file = Path(url).name
    if (torch_cache() / file).is_file():
        return FLAGSHIP, f"its official weights {file} are in {torch_cache()}"
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return FLAGSHIP, f"its official weights can be downloaded from {url}"
    except OSError as error:
        why = getattr(error, "reason", error)
        return LIGHT, f"the official weights of {FLAGSHIP} are not cached and {url} does not answer ({why})"


def torch_cache() -> Path:
    """Returns the folder of torch.hub's downloads, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch") / "hub" / "checkpoints"


if __name__ == "__main__":
    sys.exit(main())
