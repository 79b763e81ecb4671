"""The GitHub workflows: pinned actions, minimal permissions, time limits, and every supported Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYTHONS = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT))

# The jobs that need more permissions than for a checkout.
RIGHTS = {"publish": {"id-token": "write", "attestations": "write"}, "all": {}}

each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


JOBS: dict[str, dict[str, Any]] = {
    f"{path.name}: {name}": job for path in WORKFLOWS for name, job in read(path)["jobs"].items()
}


def commands() -> str:
    return "\n".join(step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step)


def matrix(workflow: str, job: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = JOBS[f"{workflow}: {job}"]["strategy"]["matrix"]
    return found


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["tests.yml", "wheels.yml"]


@each
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"(- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_is_one_version_everywhere() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    pins = set(re.findall(r"uses: (\S+)@(\S+ # \S+)", texts))
    assert len({action for action, _ in pins}) == len(pins), sorted(pins)


@each
def test_a_workflow_may_nothing_and_its_jobs_little(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == RIGHTS.get(name, {"contents": "read"}), name


@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_a_job_ends_and_leaves_no_credentials(job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 120
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_every_python_is_tested_on_every_system() -> None:
    tests = matrix("tests.yml", "tests")
    oldest = re.search(r'requires-python = ">=(3\.\d+)"', PYPROJECT)
    assert oldest is not None
    assert {oldest[1], "3.15"} <= PYTHONS
    versions = {python for python in tests["python"] if not python.startswith("pypy")}
    assert {python for python in versions if not python.endswith("t")} == PYTHONS
    assert {"3.14t", "3.15t"} <= versions
    assert [python for python in tests["python"] if python.startswith("pypy")] == ["pypy3.11"]
    assert [re.sub(r"-.*", "", system) for system in tests["os"]] == ["ubuntu", "macos", "windows"]
    assert [case["pure"] for case in tests["include"]] == ["1"]


def test_every_python_gets_its_wheels() -> None:
    wheels = matrix("wheels.yml", "wheels")
    tested = {python for python in matrix("tests.yml", "tests")["python"] if not python.startswith("pypy")}
    assert set(wheels["python"]) == {f"cp{python.replace('.', '')}" for python in tested}
    names = [platform["name"] for platform in wheels["platform"]]
    assert names == [
        "Linux x86_64", "Linux aarch64", "macOS x86_64", "macOS arm64", "Windows x86_64", "Windows arm64",
    ]  # fmt: skip


def test_one_job_stands_for_all_of_them() -> None:
    every = read(ROOT / ".github/workflows/tests.yml")["jobs"]
    assert set(every["all"]["needs"]) == set(every) - {"all"}
    assert every["all"]["if"] == "always()"


def test_only_a_tag_is_published_and_only_after_all_jobs() -> None:
    every = read(ROOT / ".github/workflows/wheels.yml")["jobs"]
    publish = every["publish"]
    assert set(publish["needs"]) == set(every) - {"publish"}
    assert publish["if"] == "github.event_name == 'push' && github.ref_type == 'tag'"
    assert publish["environment"] == "pypi"
    assert not any("run" in step for step in publish["steps"])


def test_what_workflows_make_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z ]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    targets = {name for names in targets for name in names.split()}
    made = set(re.findall(r"^\s*make ([a-z]+)", commands(), re.MULTILINE))
    assert {"test", "lint", "workflows", "debug", "sanitize", "fuzz", "bench", "instructions", "docs", "wheel"} <= made
    assert made <= targets


def test_dependency_groups_that_workflows_install_exist() -> None:
    groups = set(re.findall(r"--group (\S+)", commands()))
    assert groups == {"test", "wheels"}
    for group in groups:
        assert re.search(rf"^{group} = \[", PYPROJECT, re.MULTILINE), group


def test_updates_come_for_actions_and_packages_after_some_days() -> None:
    updates = read(ROOT / ".github/dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip"}
    assert all(update["cooldown"]["default-days"] >= 7 for update in updates)


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_a_form_asks_for_something(name: str) -> None:
    form = read(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked)
    assert any(part["validations"]["required"] for part in asked)
