"""What servers say is shown in words of the command line, and only where it has such words."""

import re

import pytest
import typer

from coxswain.client.cli import words
from coxswain.client.cli.app import app
from coxswain.client.cli.words import field_in_own_words, in_own_words, options_of
from tests.support.descriptors import product_services

OPTIONS = {"allow_side_effects": "--allow-side-effects", "force": "--force", "id": "ID", "carry_memories": "--carry"}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("an admin accepts it with AcceptToolChanges", "an admin accepts it with `coxswain tool source accept`"),
        ("store one (SecretService.PutSecret)", "store one (`coxswain secret put`)"),
        ("set allow_side_effects to call it", "give --allow-side-effects to call it"),
        ("or set force to delete it", "or give --force to delete it"),
        ("Repeat the update with carry_over_memories", "Repeat the command with --carry"),
        ("the execution is EXECUTION_STATE_FAILED", "the execution is failed"),
        # What it has no word for stays, and so do words that only look alike.
        ("call TouchRecords", "call TouchRecords"),
        ("set it and id again", "set it and id again"),
        ("the field page_token of MyPutSecrets", "the field page_token of MyPutSecrets"),
    ],
)
def test_texts_speak_of_commands_and_options(said: str, shown: str) -> None:
    assert in_own_words(said, OPTIONS) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("namespace.memory_id", "--crew"),
        ("spec.mcp.url", "--mcp"),
        ("tools[3]", "TOOLS"),
        ("inputs.text", "--input text"),
        # The name of an input is no argument of that name.
        ("schedule.start.inputs.crew", "--input crew"),
        ("items[2].labels.crew", "items[2].labels.crew"),
        ("filter.unknown", "filter.unknown"),
    ],
)
def test_fields_are_named_as_the_option_that_fills_them(path: str, shown: str) -> None:
    assert field_in_own_words(path, {"crew": "--crew", "mcp": "--mcp", "tools": "TOOLS", "given": "--input"}) == shown


def test_every_word_is_one_of_the_product() -> None:
    rpcs = {method.name for service in product_services() for method in service.methods}
    assert set(words._COMMANDS) <= rpcs
    known = _commands(typer.main.get_command(app), "coxswain")
    for command in words._COMMANDS.values():
        path = re.sub(r" --.*", "", command.strip("`"))
        assert path in known, path


def _commands(command: object, path: str) -> set[str]:
    inner = getattr(command, "commands", {})
    found = {path}
    for name, one in inner.items():
        found |= _commands(one, f"{path} {name}")
    return found


def test_options_are_known_by_the_names_of_their_parameters() -> None:
    tool = typer.main.get_command(app).commands["tool"].commands["test"]  # type: ignore[attr-defined]
    typed = options_of(tool.params)
    assert (typed["tool"], typed["allow_side_effects"], typed["request_id"]) == (
        "TOOL",
        "--allow-side-effects",
        "--request-id",
    )
