"""What a shell completes: which parameter names what, and where the names are listed."""

import importlib

import pytest
import typer

from coxswain.client.cli import names
from coxswain.client.cli.app import app
from coxswain.client.cli.complete import RESOURCES, _fitting, resource_of
from coxswain.client.policy import methods
from tests.unit.client.test_needed_roles import leaves

METHODS = {method.full_name: method for method in methods()}
PARAMETERS = {
    (path, parameter.name if parameter.param_type_name == "argument" else parameter.opts[0])
    for path, command in leaves(typer.main.get_command(app), "")
    for parameter in command.params
    if parameter.expose_value
}


@pytest.mark.parametrize("resource", names._LISTS)
def test_names_are_listed_by_a_method_that_has_them(resource: str) -> None:
    listed = names._LISTS[resource]
    messages = importlib.import_module(f"coxswain.{listed.module}")
    method = METHODS[f"coxswain.{listed.module.rpartition('.')[0]}.{listed.method}"]
    assert method.input_type is getattr(messages, f"{method.name}Request").DESCRIPTOR
    assert method.output_type is getattr(messages, f"{method.name}Response").DESCRIPTOR
    field = method.output_type.fields_by_name[listed.items]
    for part in listed.name.split("."):
        field = field.message_type.fields_by_name[part]
    assert field.type == field.TYPE_STRING


def test_what_is_completed_is_a_parameter_and_can_be_listed() -> None:
    assert set(RESOURCES.values()) - {""} <= set(names._LISTS)
    used = {
        " ".join([*words[:count], key])
        for path, key in PARAMETERS
        for words in [path.split()]
        for count in range(len(words) + 1)
    }
    assert set(RESOURCES) <= used


@pytest.mark.parametrize(
    ("command", "parameter", "resource"),
    [
        ("secret delete", "name", "secret"),
        ("answer", "id", "question"),
        ("batch show", "id", "batch"),
        ("memory backend activate", "backend", "memory backend"),
        ("memory index list", "--backend", "memory backend"),
        ("tool source refresh", "source", "tool source"),
        ("tool test", "tool", "tool"),
        ("tokens revoke", "name", "service token"),
        ("tokens create", "name", ""),
        ("member revoke", "subject", "member"),
        ("limits set", "group", "stored group"),
        ("models create", "name", ""),
        ("crews diff", "crew", ""),
        ("memory save", "--source", ""),
        ("get", "id", "execution"),
        ("webhooks show", "id", "webhook"),
    ],
)
def test_parameters_of_one_name_are_told_apart(command: str, parameter: str, resource: str) -> None:
    assert (command, parameter) in PARAMETERS
    assert resource_of(command, parameter) == resource


def test_models_and_crews_are_completed_wherever_they_are_options() -> None:
    options = [(path, key) for path, key in PARAMETERS if key in {"--model", "--crew"}]
    assert len(options) > 20
    assert all(resource_of(path, key) == key.removeprefix("--") for path, key in options)


def test_a_subject_is_completed_where_its_bar_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = ["dev|alice", "dev|al$(x)", "other"]
    assert _fitting(subjects, "dev") == []
    monkeypatch.setenv("_COXSWAIN_COMPLETE", "complete_bash")
    assert _fitting(subjects, "dev|a") == ["dev\\|alice"]
