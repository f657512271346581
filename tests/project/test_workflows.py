"""GitHub's workflows and the commit hooks run what `make` runs; their own form is checked by `make lint`."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# What `make lint` runs, by itself and by its scripts, without the paths of the tools.
SCRIPTS = [MAKEFILE, *((ROOT / folder / "check.sh").read_text() for folder in ("deploy", ".github"))]
LINT = re.sub(r'"\$bin/([a-z-]+)"', r"\1", "\n".join(SCRIPTS)).replace("$(BIN)/", "")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{path.stem}: {name}", job) for path in WORKFLOWS for name, job in read(path)["jobs"].items()]


def commands() -> list[str]:
    """Everything that the workflows run, without GitHub's expressions."""
    written = [step["run"] for _, job in jobs() for step in job["steps"] if "run" in step]
    return [re.sub(r"\$\{\{.*?\}\}", "", command) for command in written]


def test_every_command_is_a_target_of_the_makefile_or_the_publication() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    called = {word for command in commands() for word in re.findall(r"^make (?:\w+=\S+ )?([a-z-]+)", command)}
    assert called == {"lint", "test", "docs", "package"}
    assert called <= targets
    assert [command for command in commands() if not command.startswith("make ")] == [
        "npm publish --access public dist/npm/*.tgz"
    ]


def test_the_tests_run_on_every_python_that_the_package_allows() -> None:
    (test,) = [job for name, job in jobs() if name == "checks: test"]
    versions = test["strategy"]["matrix"]["python"]
    floor = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert floor == f">={versions[0]}"
    assert versions == ["3.11", "3.12", "3.13", "3.14"]


@pytest.mark.parametrize(("name", "job"), jobs())
def test_a_job_may_only_read_and_ends(name: str, job: dict[str, Any]) -> None:
    assert job["timeout-minutes"] <= 60
    publishes = name in ("release: pypi", "release: npm")
    assert job.get("permissions", {}) == ({"id-token": "write"} if publishes else {})
    for step in job["steps"]:
        if "uses" in step and not step["uses"].startswith("./"):
            assert re.search(r"@(v\d+|release/v\d+|[0-9a-f]{40})$", step["uses"]), step["uses"]
    assert "secrets." not in str(job)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_only_and_runs_once_at_a_time(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"].startswith("checks-" if path.stem == "checks" else "release")
    assert "GitHub has not run this file yet" in " ".join(path.read_text().replace("#", "").split())


def test_a_release_is_tested_and_built_from_its_tag() -> None:
    release = read(ROOT / ".github" / "workflows" / "release.yml")
    assert release[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # YAML 1.1 reads the key `on` as true
    assert 'make package TAG="$GITHUB_REF_NAME"' in [step.get("run") for step in release["jobs"]["build"]["steps"]]
    assert all(release["jobs"][name]["needs"] == "build" for name in ("pypi", "npm"))


def test_dependencies_are_looked_at_weekly() -> None:
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    found = {each["package-ecosystem"] for each in updates if each["schedule"] == {"interval": "weekly"}}
    assert found == {"pip", "npm", "github-actions", "docker", "docker-compose"}
    for each in updates:
        for folder in each.get("directories", [each.get("directory")]):
            assert (ROOT / folder.strip("/")).is_dir()


def test_hooks_are_checks_of_make_lint_by_the_same_tools() -> None:
    (own,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert own["repo"] == "local"  # so that there is no version but that of constraints.txt
    for hook in own["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        command = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude")
        assert re.search(rf"^\s*{re.escape(command)} ", LINT, re.MULTILINE), command


def test_editors_are_told_the_line_length() -> None:
    length = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
    assert f"max_line_length = {length}\n" in (ROOT / ".editorconfig").read_text()
