"""Help and completion know every command without loading one, and options of all commands stand anywhere."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from coxswain.client.cli.app import app
from coxswain.client.cli.command_tree import SECTIONS
from tests.support.child_process import scrubbed_environment

ROOT = Path(__file__).parents[3]
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
DEAR = ("grpc", "google.protobuf", "rich", "pydantic", "yaml", "coxswain.auth", "coxswain.orchestrator")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--help"], {}),
        ([], {"_COXSWAIN_COMPLETE": "complete_bash", "COMP_WORDS": "coxswain cr", "COMP_CWORD": "1"}),
    ],
)
def test_help_and_completion_load_neither_grpc_nor_a_command(
    arguments: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    program = f"""
import sys
from coxswain.client.cli.app import main
sys.argv = ["coxswain", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
loaded = [name for name in {DEAR!r} if name in sys.modules]
loaded += [name for name in sys.modules if name.startswith("coxswain.client.")]
print("loaded:", *sorted(loaded))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**scrubbed_environment(tmp_path), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shown, _, loaded = done.stdout.rpartition("loaded:")
    assert "crews" in shown
    assert {name.removeprefix("coxswain.client.") for name in loaded.split()} == {
        "cli",
        "cli.app",
        "cli.command_tree",
        "cli.complete",
        "cli.global_options",
        "version",
    }


@pytest.mark.parametrize("line", ["crews --help", "secret put --help", "schedule create --help"])
def test_help_of_a_command_loads_no_grpc(line: str, tmp_path: Path) -> None:
    program = f"""
import sys
from coxswain.client.cli.app import main
sys.argv = ["coxswain", *{line.split()!r}]
try:
    main()
except SystemExit:
    print("loaded:", *(name for name in ("grpc", "asyncio", "protovalidate") if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=scrubbed_environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"Usage: coxswain {line.removesuffix(' --help')}")
    assert done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize("name", ENTRIES)
def test_each_command_is_what_the_help_says(name: str) -> None:
    tree: Any = typer.main.get_command(app)
    command = tree.commands[name]
    help_text = " ".join((command.help or "").split())
    assert help_text.startswith(ENTRIES[name].help), help_text
    assert command.name == name


def test_options_of_all_commands_stand_before_and_behind_them() -> None:
    def end(*arguments: str) -> str:
        return CliRunner().invoke(app, arguments).stderr

    # Refused before anything is called.
    wrong, other = "http://here/path", "http://there/path"
    assert f"address '{wrong}'" in end("--address", wrong, "whoami")
    assert f"address '{wrong}'" in end("--address", other, "whoami", "--address", wrong)
    assert f"address '{wrong}'" in end("tool", "list", "--timeout", "5", "--address", wrong)
    # An argument of the name of an option is not taken for it.
    assert f"address '{wrong}'" in end("limits", "show", "sales", "--address", wrong)
    assert "--address" in end("whoami", "--addres", wrong)


@pytest.mark.parametrize(
    ("line", "same"),
    [("approvals list", "questions"), ("approvals answer", "answer"), ("credential explain", "secret explain")],
)
def test_what_has_two_names_is_one_command(line: str, same: str) -> None:
    def callback(path: str) -> object:
        command: Any = typer.main.get_command(app)
        for name in path.split():
            command = command.commands[name]
        return getattr(command.callback, "__wrapped__", None)

    assert callback(line) is callback(same) is not None
