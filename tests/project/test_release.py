"""`make release` and `make package`, in a scratch repository: nothing is pushed or published."""

import datetime
import importlib.metadata
import json
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import package
import pytest
import release

from node_package import PACKAGE, npm

__all__ = ["npm"]  # a fixture

ROOT = Path(__file__).parents[2]
CONTRACT = b"the contract as it stands"
CHANGELOG = """# Changelog

## [Unreleased]

### Added
- Something new.

## [0.0.1] - 2026-01-01

### Added
- Something old.
"""


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=root).stdout.strip()


def scratch_repository(root: Path) -> Path:
    """The files of this checkout as the first commit of a repository of their own, with a changelog of the test's."""
    files = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    # In place of protoc, which is in an environment that only `make proto` and `make release` need.
    generate = root / "protos" / "generate.sh"
    generate.write_text(f'#!/bin/sh\n[ "$1" = --release ] && printf "{CONTRACT.decode()}" >protos/released.binpb\n')
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "user.name", "Tests")
    git(root, "config", "user.email", "tests@example.invalid")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Start")
    return root


@pytest.fixture(scope="module")
def released(npm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which version 7.8.9 was released."""
    assert npm
    root = scratch_repository(tmp_path_factory.mktemp("release"))
    (root / ".git" / "info" / "exclude").write_text("node_modules\n")
    (root / "clients" / "typescript" / "node_modules").symlink_to(PACKAGE / "node_modules")
    assert release.main(["7.8.9", "--root", str(root)]) == 0
    return root


def versions(root: Path) -> set[str]:
    """Every version of Mattebox that a checkout names."""
    client = root / "clients" / "typescript"
    lock = json.loads((client / "package-lock.json").read_text())
    found = {tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]}
    found |= {json.loads((client / "package.json").read_text())["version"]}
    found |= {lock["version"], lock["packages"][""]["version"]}
    for name in git(root, "ls-files", *release.TEXTS).splitlines():
        if not name.endswith(release.NO_TEXTS):
            text = (root / name).read_text()
            found |= set(re.findall(r"(\d+\.\d+\.\d+)-(?:cpu|cuda)\b", text))
            found |= set(re.findall(r"^ARG VERSION=(\S+)", text, re.MULTILINE))
    return found


def test_there_is_one_version() -> None:
    assert versions(ROOT) == {package.version_of(ROOT)}


def test_a_release_is_one_commit_with_a_tag(released: Path) -> None:
    assert versions(released) == {"7.8.9"}
    assert git(released, "status", "--porcelain") == ""
    assert git(released, "log", "--format=%s").splitlines() == ["Version 7.8.9", "Start"]
    assert git(released, "tag", "--points-at", "HEAD") == "v7.8.9"
    assert git(released, "cat-file", "-t", "v7.8.9") == "tag"
    assert (released / "protos" / "released.binpb").read_bytes() == CONTRACT


def test_the_changelogs_entries_become_the_versions(released: Path) -> None:
    made = git(released, "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%d")
    heading = re.compile(r"## \[Unreleased\]\n\n## \[7\.8\.9\] - (\S+)\n\n### Added\n- Something new\.\n")
    text = (released / "CHANGELOG.md").read_text()
    found = heading.search(text)
    assert found is not None, text
    days = abs((datetime.date.fromisoformat(found[1]) - datetime.date.fromisoformat(made)).days)
    assert days <= 1  # the tests may run over midnight, and in any time zone
    assert text.count("- Something old.") == 1


def test_packages_and_bills_are_built(released: Path) -> None:
    out = released / "dist"
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "python/mattebox-7.8.9.tar.gz",
        "python/mattebox-7.8.9-py3-none-any.whl",
        "npm/mattebox-client-7.8.9.tgz",
        "mattebox-7.8.9.cdx.json",
        "mattebox-client-7.8.9-npm.cdx.json",
    }
    assert (
        "mattebox_server/__main__.py" in zipfile.ZipFile(out / "python" / "mattebox-7.8.9-py3-none-any.whl").namelist()
    )
    with tarfile.open(out / "npm" / "mattebox-client-7.8.9.tgz") as archive:
        assert "package/dist/index.js" in archive.getnames()
    server = json.loads((out / "mattebox-7.8.9.cdx.json").read_text())
    client = json.loads((out / "mattebox-client-7.8.9-npm.cdx.json").read_text())
    assert {bill["bomFormat"] for bill in (server, client)} == {"CycloneDX"}
    assert {bill["metadata"]["component"]["version"] for bill in (server, client)} == {"7.8.9"}
    assert (server["metadata"]["component"]["name"], client["metadata"]["component"]["name"]) == (
        "mattebox",
        "@mattebox/client",
    )
    parts = {part["name"] for part in client["components"]}
    assert {"@grpc/grpc-js", "@bufbuild/protobuf"} <= parts
    assert not {"typescript", "eslint", "ts-proto"} & parts


def test_the_bill_of_the_server_holds_what_it_needs_and_no_tools(released: Path) -> None:
    bill = json.loads((released / "dist" / "mattebox-7.8.9.cdx.json").read_text())
    parts = {part["name"]: part["version"] for part in bill["components"]}
    for name in ("grpcio", "protobuf", "numpy", "opencv-python-headless", "typer"):
        assert parts[name] == importlib.metadata.version(name)
    assert not {"pytest", "torch", "mkdocs", "ruff", "mattebox"} & set(parts)
    refs = {part["bom-ref"] for part in bill["components"]}
    (whole,) = (entry for entry in bill["dependencies"] if entry["ref"] == bill["metadata"]["component"]["bom-ref"])
    assert set(whole["dependsOn"]) <= refs
    assert len(refs) > len(whole["dependsOn"]) > 10


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scratch_repository(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.2", "a version is written as 1.2.3, not 1.2"),
        ("v1.2.3", "a version is written as 1.2.3, not v1.2.3"),
        ("1.02.3", "a version is written as 1.2.3, not 1.02.3"),
        ("0.0.9", "0.0.9 isn't after 0.1.0"),
    ],
)
def test_versions_that_cant_be_released(start: Path, version: str, message: str) -> None:
    set_version(start, "0.1.0")
    with pytest.raises(SystemExit, match=re.escape(f"release: {message}")):
        release.main([version, "--root", str(start)])


def set_version(root: Path, version: str) -> None:
    text = re.sub(
        r'^version = ".*"$', f'version = "{version}"', (root / "pyproject.toml").read_text(), flags=re.MULTILINE
    )
    (root / "pyproject.toml").write_text(text)
    git(root, "commit", "--quiet", "--all", "--allow-empty", "--message", f"At {version}")


def test_a_version_is_released_once(start: Path) -> None:
    set_version(start, "0.1.0")
    release.check(start, "0.1.0")  # the first release of all may have the version that stands there
    git(start, "tag", "v0.1.0")
    with pytest.raises(SystemExit, match=r"the tag v0\.1\.0 is there already"):
        release.check(start, "0.1.0")
    release.check(start, "0.1.1")
    git(start, "tag", "--delete", "v0.1.0")


def test_only_a_clean_checkout_is_released(start: Path) -> None:
    (start / "note").write_text("not committed")
    with pytest.raises(SystemExit, match="changes that aren't committed"):
        release.check(start, "9.0.0")
    (start / "note").unlink()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("### Added\n- Something new.\n", "", "Unreleased of CHANGELOG.md is empty"),
        ("Unreleased", "Next", "no section"),
    ],
)
def test_a_release_needs_entries_in_the_changelog(start: Path, before: str, after: str, message: str) -> None:
    (start / "CHANGELOG.md").write_text(CHANGELOG.replace(before, after, 1))
    git(start, "commit", "--quiet", "--all", "--message", "Another changelog")
    with pytest.raises(SystemExit, match=message):
        release.check(start, "9.0.0")
    git(start, "revert", "--no-edit", "HEAD")


def test_a_release_that_fails_leaves_the_checkout_as_it_was(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> list[Path]:
        raise SystemExit("package: it is too large")

    monkeypatch.setattr(package, "build", fail)
    head = git(start, "rev-parse", "HEAD")
    with pytest.raises(SystemExit, match="too large"):
        release.main(["9.0.0", "--root", str(start)])
    assert (git(start, "rev-parse", "HEAD"), git(start, "status", "--porcelain"), git(start, "tag")) == (head, "", "")


def test_a_package_has_the_version_of_its_tag(start: Path) -> None:
    set_version(start, "0.1.0")
    with pytest.raises(SystemExit, match=r"the tag v0\.2\.0 isn't that of version 0\.1\.0"):
        package.main(["--tag", "v0.2.0", "--root", str(start)])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("Metadata-Version: 2.4\nName: mattebox\nVersion: 1.0.0\n", "mattebox 1.0.0 under None, not 2.0.0"),
        (
            "Metadata-Version: 2.4\nName: mattebox\nVersion: 2.0.0\nLicense-Expression: Apache-2.0\n",
            "the metadata doesn't hold the README",
        ),
    ],
)
def test_metadata_that_is_wrong(metadata: str, message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        package.check_python(metadata.encode(), "2.0.0")


def test_metadata_that_pypi_would_refuse() -> None:
    wrong = b"Metadata-Version: 2.4\nName: mattebox\nVersion: 2.0.0\nLicense-Expression: Not a licence\n"
    with pytest.raises(ExceptionGroup) as refused:
        package.check_python(wrong, "2.0.0")
    assert "license" in str(refused.value.exceptions)
