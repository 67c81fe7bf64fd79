"""The three lists of versions agree: pyproject.toml (bounds), constraints.txt (lock), environment.yml (conda)."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import helpers
from benchmarks.course import disagreements
from pages.record import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
LOCK = {
    canonicalize_name(line.partition("==")[0]): line.partition("==")[2].strip()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
}


def _requirements(*groups: list[str]) -> list[Requirement]:
    return [Requirement(line) for group in groups for line in group]


def _pip_lines() -> list[str]:
    (pip,) = [part["pip"] for part in ENVIRONMENT["dependencies"] if isinstance(part, dict)]
    return pip


def test_the_lock_holds_every_direct_dependency_within_its_bound() -> None:
    for requirement in _requirements(PROJECT["dependencies"], *EXTRAS.values()):
        locked = LOCK.get(canonicalize_name(requirement.name))
        assert locked, f"{requirement.name} is in pyproject.toml and not in constraints.txt"
        assert requirement.specifier.contains(locked), f"constraints.txt has {requirement.name} {locked}"


def test_the_lock_names_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+( ; .*)?", line), f"not name==version: {line}"


def test_environment_yml_has_the_locked_versions() -> None:
    assert disagreements() == []


def test_a_version_that_differs_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\n")
    (tmp_path / "environment.yml").write_text("dependencies: [python=3.11, {pip: [numpy==2.4.5, pillow==1.0]}]\n")
    assert disagreements(tmp_path) == ["numpy: 2.4.5, locked 2.4.6", "pillow: 1.0, locked None"]


def test_environment_yml_lists_what_the_course_its_pages_and_its_tests_need() -> None:
    expected = _requirements(PROJECT["dependencies"], EXTRAS["pages"], EXTRAS["test"])
    listed = _requirements([line for line in _pip_lines() if line != "-e ."])
    assert {canonicalize_name(r.name) for r in listed} == {canonicalize_name(r.name) for r in expected}
    assert _pip_lines()[-1] == "-e ."


def test_conda_understands_its_lines() -> None:
    rattler = pytest.importorskip("rattler", reason="py-rattler reads conda's lines; pip install py-rattler")
    lines = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
    assert {rattler.MatchSpec(line, strict=True).name.normalized for line in lines} == {"python", "pip", "make"}
    (python,) = [line for line in lines if line.startswith("python=")]
    bound = PROJECT["requires-python"]
    assert Requirement(f"python{bound}").specifier.contains(python.partition("=")[2]), f"{python} outside {bound}"


def test_what_is_installed_is_what_is_locked() -> None:
    """`make` installs with the lock; an environment of other versions gives other numbers in the notebooks."""
    for requirement in _requirements(PROJECT["dependencies"], EXTRAS["pages"], EXTRAS["test"]):
        installed = version(requirement.name).partition("+")[0]
        assert requirement.specifier.contains(installed), f"{requirement.name} {installed}, wanted {requirement}"


def test_every_dependency_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    bare = [line for line in lines if re.match(r'\s+"[a-z].*",\s*$', line) and re.search("[<>=]=", line)]
    assert not bare, f"say why beside each dependency: {bare}"


def test_make_says_what_to_do_about_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}", "course"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode != 0 and "needs Python 3.11 or later" in said.stdout
    assert not (tmp_path / "venv").exists()


def test_make_alone_lists_the_commands() -> None:
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("install", "course", "test", "lab", "pages", "execute", "bench", "clean"):
        assert f"make {command}" in said


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = re.findall(r"^make (\w+) +#", (ROOT / "README.md").read_text(), re.MULTILINE)
    steps = re.findall(r"^timeout (\d+)m make (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert commands == ["course", "test"] and set(commands) <= {name for _, name in steps}
    assert sum(int(minutes) for minutes, _ in steps) < 90


@pytest.mark.parametrize(("fails", "status"), [("", 0), ("course", 1), ("lowest", 1)])
def test_ci_goes_on_after_a_failure_and_reports_it(tmp_path: Path, fails: str, status: int) -> None:
    tools = {"make": f'echo "$@" >> {tmp_path}/log; [ "$1" != "{fails}" ]', "chromium": "true"}
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    said = subprocess.run(
        [ROOT / ".ci" / "run"], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert said.returncode == status and (f"failed: make {fails}" in said.stderr) == bool(fails)
    assert (tmp_path / "log").read_text().split() == ["course", "test", "lowest"]


# --- the files that others expect -------------------------------------------------------------------------------------


def _workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def test_the_workflow_runs_what_ci_runs_on_the_oldest_and_the_newest_python() -> None:
    jobs = _workflow("test")["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["all"]["steps"]]
    pythons = jobs["all"]["strategy"]["matrix"]["python"]
    assert pythons[0] == PROJECT["requires-python"].removeprefix(">=") and len(pythons) == 2
    minutes = re.findall(r"^timeout (\d+)m", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert sum(map(int, minutes)) < jobs["all"]["timeout-minutes"], "GitHub would stop it before its own limits do"


def test_the_workflow_of_the_pages_publishes_what_make_builds() -> None:
    from pages.build import HTML

    steps = _workflow("pages")["jobs"]["deploy"]["steps"]
    assert "make pages" in [step.get("run") for step in steps]
    assert str(HTML.relative_to(ROOT)) in [step.get("with", {}).get("path") for step in steps]


def test_pre_commit_formats_with_the_locked_ruff() -> None:
    (ruff,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert ruff["rev"] == f"v{LOCK['ruff']}"
    assert {hook["id"] for hook in ruff["hooks"]} == {"ruff-check", "ruff-format"}


def test_the_version_is_that_of_pyproject() -> None:
    assert helpers.__version__ == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_a_container_installs_with_a_command_that_make_has() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    command = container["postCreateCommand"]
    assert re.search(rf"^{command.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert container["image"].endswith(f":{PROJECT['requires-python'].removeprefix('>=')}")


def test_an_issue_about_a_cell_asks_for_all_that_is_needed() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "cell-fails.yml").read_text())
    needed = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert needed == {"notebook", "error", "system", "profile", "versions"}


def test_python_is_new_enough() -> None:
    assert sys.version_info >= (3, 11)
