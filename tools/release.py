"""`make release VERSION=x.y.z`: makes a release in this checkout: version, changelog, packages, commit and tag.

pyproject.toml is the source of the version. The TypeScript client's package and the tags of images in deploy/ and in
the documentation follow it. The section Unreleased of CHANGELOG.md becomes that of the version, and the contract as it
stands becomes the released one. If a step fails, the checkout is as it was before. Nothing is pushed or published: the
workflow .github/workflows/release.yml publishes the tag once it is pushed.
"""

import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import package
from commands import git, run

UNRELEASED = "## [Unreleased]\n"
TEXTS = ("README.md", "deploy", "docs")  # files and folders that hold tags of images
NO_TEXTS = (".webp", ".png", ".json")


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the release; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="version of the release, such as 1.2.3")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="checkout (default: this one)")
    arguments = parser.parse_args(argv)
    root, version = arguments.root, arguments.version
    check(root, version)
    try:
        write(root, version, datetime.datetime.now(datetime.UTC).date())
        run(root, "protos/generate.sh", "--release")
        for path in package.build(root):
            print(path.relative_to(root))
    except BaseException:
        git(root, "restore", ".")
        raise
    git(root, "commit", "--quiet", "--all", "--message", f"Version {version}")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"Version {version}")
    print(f"Version {version} is committed and tagged. To publish it: git push origin main v{version}")
    return 0


def check(root: Path, version: str) -> None:
    """Checks that this checkout can be released under a version.

    Raises:
        SystemExit: the version is malformed or not the next one, there are changes that aren't committed, the tag is
            there already, or the changelog has nothing to release.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version):
        raise SystemExit(f"release: a version is written as 1.2.3, not {version}")
    if git(root, "status", "--porcelain"):
        raise SystemExit("release: there are changes that aren't committed")
    if git(root, "tag", "--list", f"v{version}"):
        raise SystemExit(f"release: the tag v{version} is there already")
    current = package.version_of(root)
    first = not git(root, "tag", "--list", f"v{current}")  # pyproject.toml names a version that was never released
    if numbers(version) < numbers(current) or (version == current and not first):
        raise SystemExit(f"release: {version} isn't after {current}")
    if not unreleased((root / "CHANGELOG.md").read_text()).strip():
        raise SystemExit("release: the section Unreleased of CHANGELOG.md is empty")


def numbers(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version."""
    return tuple(int(number) for number in version.split("."))


def unreleased(changelog: str) -> str:
    """Returns the entries of the section Unreleased; raises SystemExit if there is no such section."""
    _, heading, rest = changelog.partition(UNRELEASED)
    if not heading:
        raise SystemExit("release: CHANGELOG.md has no section Unreleased")
    return re.split(r"^## |^\[", rest, maxsplit=1, flags=re.MULTILINE)[0]


def write(root: Path, version: str, date: datetime.date) -> None:
    """Writes the version into every file that names it, and dates the changelog's entries."""
    current = package.version_of(root)
    change(
        root / "pyproject.toml", lambda text: text.replace(f'\nversion = "{current}"\n', f'\nversion = "{version}"\n')
    )
    for name in ("package.json", "package-lock.json"):
        change(root / "clients" / "typescript" / name, lambda text: with_npm_version(text, version))
    for name in git(root, "ls-files", *TEXTS).splitlines():
        if not name.endswith(NO_TEXTS):
            change(root / name, lambda text: with_image_version(text, version))
    dated = f"{UNRELEASED}\n## [{version}] - {date.isoformat()}\n"
    change(root / "CHANGELOG.md", lambda text: text.replace(UNRELEASED, dated, 1))


def with_npm_version(text: str, version: str) -> str:
    """Returns package.json or package-lock.json with another version of the package itself."""
    described = json.loads(text)
    described["version"] = version
    if "packages" in described:
        described["packages"][""]["version"] = version
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def with_image_version(text: str, version: str) -> str:
    """Returns a text with other tags of Mattebox's images, such as 1.2.3-cpu, and another VERSION of a Dockerfile."""
    text = re.sub(r"\b\d+\.\d+\.\d+(?=-(cpu|cuda)\b)", version, text)
    return re.sub(r"^ARG VERSION=.*$", f"ARG VERSION={version}", text, flags=re.MULTILINE)


def change(path: Path, new: Callable[[str], str]) -> None:
    """Rewrites a file, unless its text stays the same."""
    text = path.read_text()
    if (changed := new(text)) != text:
        path.write_text(changed)


if __name__ == "__main__":
    sys.exit(main())
