"""What people who change Coxswain are told works: checks, names within sentences, hooks, the container."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from services.common.settings import CommonSettings, public_port

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE))
PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "tests" / "README.md",
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]
HOOKS: dict[str, dict[str, Any]] = {
    hook["id"]: hook
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repository["hooks"]
}
CHECKS = ["lint", "types", "contracts", "proto-lint", "test-unit"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command at the root, without what a `make` around the tests has set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


@pytest.fixture
def toy_environment(tmp_path: Path) -> list[str]:
    """What points `make` at tools that do nothing but say that they ran; mypy fails where a file `ill` is beside it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("python", "ruff", "typos", "mypy", "lint-imports", "buf", "pytest"):
        file = tools / tool
        file.write_text(f'#!/bin/sh\necho "ran {tool} $*"\n[ {tool} != mypy ] || [ ! -e {tmp_path}/ill ]\n')
        file.chmod(0o755)
    for stamp in (".stamp", "protos"):
        (tmp_path / stamp).touch()
    return [f"VENV={tmp_path}", f"PROTOS={tmp_path}/protos"]


def test_the_fast_checks_say_what_has_passed(toy_environment: list[str]) -> None:
    done = run("make", "check", *toy_environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"passed: {' '.join(CHECKS)}"
    [tests] = re.findall(r"^ran pytest (.*)$", done.stdout, re.MULTILINE)
    assert tests.split()[-1] == "tests/unit"


def test_the_fast_checks_go_on_after_a_failure_and_name_it(toy_environment: list[str], tmp_path: Path) -> None:
    (tmp_path / "ill").touch()
    done = run("make", "check", *toy_environment)
    assert done.returncode != 0
    assert "failed: types\n" in done.stderr
    assert "ran pytest" in done.stdout
    assert "passed:" not in done.stdout


def test_help_lists_the_fast_checks() -> None:
    assert re.search(r"^  check  ", run("make", "help").stdout, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_targets_and_files_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`|\n)make ([a-z][a-z0-9-]*)", text)) <= TARGETS
    files = re.findall(r"`((?:services|tests|tools|docs|protos|deploy|examples)/[\w./-]*)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_directory_of_tests_has_its_row() -> None:
    tests = ROOT / "tests"
    rows = re.findall(r"^\| \[(\w+)\]", (tests / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    directories = {entry.name for entry in tests.iterdir() if any(entry.rglob("test_*.py")) or entry.name == "soak"}
    assert sorted(rows) == sorted(directories)


def test_every_mark_is_explained() -> None:
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    pytest_options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    for mark in pytest_options["ini_options"]["markers"]:
        assert f"`{mark.partition(':')[0]}`" in page


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_runs_and_is_content_with_this_tree(hook: str) -> None:
    files = [] if HOOKS[hook].get("pass_filenames") is False else ["tests/unit/test_contributing.py"]
    done = run(*shlex.split(HOOKS[hook]["entry"]), *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hooks_that_get_files_mend_or_refuse_them(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    for hook, odd in {"ruff-check": "import os\n", "ruff-format": "x=1\n", "typos": "recieve = 1\n"}.items():
        file.write_text(odd)
        done = run(*shlex.split(HOOKS[hook]["entry"]), str(file))
        assert done.returncode != 0 or file.read_text() != odd, hook


def test_hooks_fetch_nothing() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert "://" not in text
    assert set(re.findall(r"repo: (\S+)", text)) == {"local"}
    assert {hook["language"] for hook in HOOKS.values()} == {"system"}


def test_the_container_has_a_python_that_is_supported_and_is_set_up_by_make() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    image, _, tag = container["image"].partition(":")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert image == "python", "a well-known name, without a registry's host"
    assert tag.split("-")[0] in SpecifierSet(project["requires-python"])
    command, target = container["postCreateCommand"].split()
    assert (command, target in TARGETS) == ("make", True)
    assert container["forwardPorts"] == [public_port(CommonSettings(), "orchestrator")]
