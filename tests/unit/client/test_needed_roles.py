"""The help of each command says the role of the methods that it calls."""

import types
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from coxswain.client.blocking import Client
from coxswain.client.cli import needed_roles
from coxswain.client.cli.app import app
from coxswain.client.cli.needed_roles import role_line, roles_of
from coxswain.client.cli.roles import role_name
from coxswain.client.policy import methods
from coxswain.common.v1.access_pb2 import Role, role
from tests.unit.client.deciding_methods import METHODS

ROLES = {method.name: method.GetOptions().Extensions[role] for method in methods()}
SHOW_WHAT_THEY_MAY = {"doctor", "status"}


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command below one, with the words that name it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, f"{path} {name}".strip())


COMMANDS = dict(leaves(typer.main.get_command(app), ""))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _called(function: Any, seen: set[Any]) -> Iterator[str]:
    """Names of the methods that a command's function calls, by itself or in other functions of the command line."""
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType) or function in seen:
        return
    seen.add(function)
    for code in _codes(function.__code__):
        for name in code.co_names:
            if name in ROLES:
                yield name
            known = function.__globals__.get(name)
            if str(getattr(known, "__module__", "")).startswith("coxswain.client.cli"):
                for inner in vars(known).values() if isinstance(known, type) else [known]:
                    yield from _called(inner, seen)
            if "client" in (*code.co_varnames, *code.co_freevars, *code.co_cellvars):
                yield from _called(vars(Client).get(name), seen)


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_says_the_role_of_what_is_called(path: str) -> None:
    command = COMMANDS[path]
    called = set(_called(command.callback, set()))
    needed = max((ROLES[name] for name in called), default=Role.ROLE_ANONYMOUS)
    if needed == Role.ROLE_ANONYMOUS or path in SHOW_WHAT_THEY_MAY:
        assert roles_of(path) == {}
        return
    deciding = METHODS.get(path, {})
    assert set(deciding.values()) <= called
    stated = {when: role_name(ROLES[name]).replace("_", " ") for when, name in deciding.items()}
    assert roles_of(path) == (stated or {"": "operator"})
    assert max((ROLES[name] for name in deciding.values()), default=Role.ROLE_OPERATOR) == needed
    shown = " ".join(command.get_help(typer.Context(command, info_name=path)).split())
    assert shown.endswith(role_line(path))


def test_every_command_that_is_named_exists() -> None:
    assert needed_roles._ANYBODY | set(needed_roles._ROLES) <= set(COMMANDS)
    assert set(METHODS) == set(needed_roles._ROLES)


def test_a_role_that_only_some_options_need_is_said_with_them() -> None:
    assert role_line("budget set") == "Needs the role admin, with --ceiling-of platform admin."
    assert role_line("secret put") == "Needs the role admin."
    assert role_line("version") == ""
