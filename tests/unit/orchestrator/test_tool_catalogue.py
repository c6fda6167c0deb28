"""The catalogue of tools."""

import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue import TOOLS


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_every_schema_is_one_and_refuses_what_it_does_not_know(tool: Tool) -> None:
    for schema in (tool.config_schema, tool.arguments_schema):
        Draft202012Validator.check_schema(schema)
        assert not Draft202012Validator(schema).is_valid({"no such setting": 1})
    # A crew may name a tool without settings, unless the tool says which it needs.
    assert Draft202012Validator(tool.config_schema).is_valid({}) is not bool(tool.config_schema["required"])


def test_settings_decide_whether_a_tool_may_be_called_twice() -> None:
    found = {
        (name, str(config)): TOOLS[name].is_idempotent(config)
        for name, setting in (("databricks_sql", "read_only"), ("databricks_uc_function", "repeatable"))
        for config in ({}, {setting: True}, {setting: False}, {setting: "yes"})
    }
    assert list(found.values()) == [True, True, False, False, False, True, False, False]


def test_tools_are_listed_by_name() -> None:
    assert list(TOOLS) == sorted(TOOLS)
    assert all(name == tool.name for name, tool in TOOLS.items())


def test_describing_tools_needs_neither_crewai_nor_a_database() -> None:
    code = (
        "import sys, services.orchestrator.tool_catalogue; "
        "print([name for name in ('crewai', 'sqlalchemy', 'grpc') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
