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
from coxswain.client.cli.event_kinds import KINDS
from coxswain.client.cli.executions import STATES
from coxswain.client.cli.models import PROVIDERS
from coxswain.models.v1.model_pb2 import Provider
from coxswain.orchestrator.v1.execution_pb2 import ExecutionEventKind, ExecutionState
from tests.support.child_process import scrubbed_environment

ROOT = Path(__file__).parents[3]
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
DEAR = ("grpc", "google.protobuf", "rich", "pydantic", "yaml", "coxswain.auth", "coxswain.orchestrator")


PRINT_LOADED = """
import sys
from coxswain.client.cli.app import main
sys.argv = ["coxswain", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
print("loaded:", *sorted(sys.modules))
"""
OF_THE_CLIENT = "coxswain.client."


def loaded_by(program: str, folder: Path, environment: dict[str, str] | None = None) -> tuple[str, set[str]]:
    """What a program prints, and the modules that it says at the end."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**scrubbed_environment(folder), **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shown, _, loaded = done.stdout.rpartition("loaded:")
    return shown, set(loaded.split())


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
    shown, loaded = loaded_by(PRINT_LOADED.format(arguments=arguments), tmp_path, environment)
    assert "crews" in shown
    assert loaded.isdisjoint(DEAR)
    assert {name.removeprefix(OF_THE_CLIENT) for name in loaded if name.startswith(OF_THE_CLIENT)} == {
        "cli",
        "cli.app",
        "cli.command_tree",
        "cli.complete",
        "cli.global_options",
        "version",
    }


def test_help_of_no_command_loads_what_only_a_call_needs(tmp_path: Path) -> None:
    program = f"""
import sys
import typer
from coxswain.client.cli.app import app
def show(command, words):
    print(command.get_help(typer.Context(command, info_name=words)))
    for name in getattr(command, "commands", ()):
        show(command.commands[name], f"{{words}} {{name}}")
        early = [each for each in {DEAR!r} if each in sys.modules]
        assert not early, (words, name, early)
show(typer.main.get_command(app), "coxswain")
print("loaded:", *sys.modules)
"""
    shown, loaded = loaded_by(program, tmp_path)
    assert "Usage: coxswain secret put [OPTIONS]" in shown
    assert "Usage: coxswain memory index create [OPTIONS]" in shown
    assert loaded.isdisjoint((*DEAR, "asyncio", "protovalidate"))


@pytest.mark.parametrize("line", ["crews --help", "secret put --help"])
def test_a_line_for_help_loads_no_more_where_the_environment_has_options(line: str, tmp_path: Path) -> None:
    environment = {"COXSWAIN_ADDRESS": "127.0.0.1:1", "COXSWAIN_TOKEN": "dev:alice", "COXSWAIN_GROUP": "sales"}
    shown, loaded = loaded_by(PRINT_LOADED.format(arguments=line.split()), tmp_path, environment)
    assert shown.startswith(f"Usage: coxswain {line.removesuffix(' --help')}")
    assert loaded.isdisjoint(DEAR)


def test_completion_of_a_name_loads_what_one_call_needs(tmp_path: Path) -> None:
    environment = {
        "_COXSWAIN_COMPLETE": "complete_bash",
        "COMP_WORDS": "coxswain --address 127.0.0.1:1 crews get ",
        "COMP_CWORD": "5",
    }
    _, loaded = loaded_by(PRINT_LOADED.format(arguments=[]), tmp_path, environment)
    assert "coxswain.orchestrator.v1.crew_pb2" in loaded
    assert loaded.isdisjoint(
        {
            "coxswain.client.blocking",
            "coxswain.client.policy",
            "coxswain.models.v1.model_pb2",
            "google.rpc",
            "protovalidate",
            "pydantic",
            "rich",
            "yaml",
        }
    )


@pytest.mark.parametrize(
    ("written", "enum", "prefix"),
    [
        (KINDS, ExecutionEventKind, "EXECUTION_EVENT_KIND_"),
        (STATES, ExecutionState, "EXECUTION_STATE_"),
        (PROVIDERS, Provider, "PROVIDER_"),
    ],
)
def test_help_names_every_value_of_an_enum(written: tuple[str, ...], enum: Any, prefix: str) -> None:
    assert [f"{prefix}{name.upper()}" for name in ("unspecified", *written)] == list(enum.keys())


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
