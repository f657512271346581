"""Bills of materials of the packages (CycloneDX): what a user installs, without the tools of developers."""

import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from commands import run
from packaging.requirements import Requirement

Part = dict[str, Any]
Bill = dict[str, Any]


def python_bill(root: Path) -> Bill:
    """Returns the bill of the server and the command line, at the versions that are installed here.

    Raises:
        SystemExit: a package that they require is missing in the bill.
    """
    command = ("environment", sys.prefix, "--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON")
    bill: Bill = json.loads(run(root, sys.executable, "-m", "cyclonedx_py", *command))
    needed = requirements("mattebox", ("cli", engine())) - {"mattebox"}
    bill = pruned(bill, lambda part: normalised(part["name"]) in needed)
    if missing := needed - {normalised(part["name"]) for part in bill["components"]}:
        raise SystemExit(f"package: the bill of materials lacks {', '.join(sorted(missing))}")
    return bill


def npm_bill(client: Path) -> Bill:
    """Returns the bill of the TypeScript client, from its lock file."""
    # Not by npm's own --omit dev, which leaves out whatever a tool for development needs too, such as protobuf.
    command = ("npm", "sbom", "--sbom-format", "cyclonedx", "--sbom-type", "library", "--package-lock-only")
    bill = pruned(json.loads(run(client, *command)), lambda part: part["scope"] == "required")
    bill["metadata"]["component"]["name"] = json.loads((client / "package.json").read_text())["name"]
    return bill


def pruned(bill: Bill, kept: Callable[[Part], bool]) -> Bill:
    """Returns a bill with some of its components only, and the dependencies between these."""
    parts: list[Part] = [part for part in bill["components"] if kept(part)]
    refs = {bill["metadata"]["component"]["bom-ref"], *(part["bom-ref"] for part in parts)}
    dependencies = [
        {**entry, "dependsOn": [ref for ref in entry.get("dependsOn", ()) if ref in refs]}
        for entry in bill["dependencies"]
        if entry["ref"] in refs
    ]
    return {**bill, "components": parts, "dependencies": dependencies}


def engine() -> str:
    """Returns the extra whose engine is installed here."""
    installed = {normalised(each.name) for each in importlib.metadata.distributions()}
    return "cuda" if "onnxruntime-gpu" in installed else "cpu"


def requirements(name: str, extras: Sequence[str]) -> set[str]:
    """Returns the normalised names of an installed distribution and of all that it requires with these extras."""
    found: set[tuple[str, str]] = set()

    def add(name: str, extra: str) -> None:
        if (normalised(name), extra) in found:
            return
        found.add((normalised(name), extra))
        for text in importlib.metadata.distribution(name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                for more in ("", *needed.extras):
                    add(needed.name, more)

    for extra in ("", *extras):
        add(name, extra)
    return {name for name, _ in found}


def normalised(name: str) -> str:
    """Returns a distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
