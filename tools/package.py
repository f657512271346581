"""`make package`: builds the packages and the bills of materials into dist/, and checks them. Nothing is published.

The sdist and the wheel go to dist/python/, the npm package to dist/npm/, two bills of materials (CycloneDX) to dist/.
One bill is that of the server with the command line, at the versions that are installed here (`mattebox[cli,cpu]`, or
`mattebox[cli,cuda]` on a machine with an NVIDIA GPU); the other is that of the TypeScript client.
"""

import argparse
import json
import shutil
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bills import npm_bill, python_bill
from commands import run
from packaging.metadata import Metadata

MAX_WHEEL_BYTES = 2 * 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Builds and checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", help="tag that the packages' version must have, such as v1.2.3")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="checkout (default: this one)")
    arguments = parser.parse_args(argv)
    version = version_of(arguments.root)
    if arguments.tag and arguments.tag != f"v{version}":
        raise SystemExit(f"package: the tag {arguments.tag} isn't that of version {version}")
    for path in build(arguments.root):
        print(path.relative_to(arguments.root))
    return 0


def version_of(root: Path) -> str:
    """Returns the version of a checkout, of which pyproject.toml is the source."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    return version


def build(root: Path) -> list[Path]:
    """Builds everything into dist/, which is emptied first; returns the files.

    Raises:
        SystemExit: a package is not what it should be.
        subprocess.CalledProcessError: a tool failed; it has printed the reason.
    """
    out = root / "dist"
    shutil.rmtree(out, ignore_errors=True)
    (out / "npm").mkdir(parents=True)
    run(root, sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out / "python"))
    client = root / "clients" / "typescript"
    run(client, "npm", "pack", "--silent", "--pack-destination", str(out / "npm"))
    version = version_of(root)
    (wheel,), (sdist,) = (list((out / "python").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    (package,) = (out / "npm").glob("*.tgz")
    check_python(wheel_metadata(wheel), version)
    check_python(sdist_metadata(sdist), version)
    if wheel.stat().st_size > MAX_WHEEL_BYTES:
        raise SystemExit(f"package: {wheel.name} has {wheel.stat().st_size} bytes, which must be a mistake")
    check_npm(package, version)
    bills = (out / f"mattebox-{version}.cdx.json", out / f"mattebox-client-{version}-npm.cdx.json")
    for path, bill in zip(bills, (python_bill(root), npm_bill(client)), strict=True):
        path.write_text(json.dumps(bill, indent=1) + "\n")
    return [sdist, wheel, package, *bills]


def wheel_metadata(wheel: Path) -> bytes:
    """Returns METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name)


def sdist_metadata(sdist: Path) -> bytes:
    """Returns PKG-INFO of an sdist."""
    with tarfile.open(sdist) as archive:
        found = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        if found is None:
            raise SystemExit(f"package: {sdist.name} has no PKG-INFO")
        return found.read()


def check_python(metadata: bytes, version: str) -> None:
    """Checks what PyPI checks of a package: that each field of its metadata is valid; and its version and licence."""
    found = Metadata.from_email(metadata, validate=True)
    if (found.name, str(found.version), found.license_expression) != ("mattebox", version, "Apache-2.0"):
        raise SystemExit(f"package: {found.name} {found.version} under {found.license_expression}, not {version}")
    if not found.description or found.description_content_type != "text/markdown":
        raise SystemExit("package: the metadata doesn't hold the README")


def check_npm(package: Path, version: str) -> None:
    """Checks the version of an npm package, and that its entry points are in it."""
    with tarfile.open(package) as archive:
        names = set(archive.getnames())
        file = archive.extractfile("package/package.json")
        described: dict[str, Any] = json.load(file) if file else {}
    if described["version"] != version:
        raise SystemExit(f"package: {package.name} has another version than pyproject.toml, which has {version}")
    for entry in described["exports"]["."].values():
        if f"package/{entry.removeprefix('./')}" not in names:
            raise SystemExit(f"package: {package.name} lacks {entry}")


if __name__ == "__main__":
    sys.exit(main())
