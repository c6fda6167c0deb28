"""The operator's file of sources."""

import re
from pathlib import Path

import pytest

from services.common.egress import AddressPolicy
from services.common.environment import read_settings
from services.common.startup import StartError
from services.orchestrator.domain.tool_source import (
    ApprovalRule,
    LocalCommand,
    McpEra,
    McpServer,
    OnToolChange,
    PythonTools,
)
from services.orchestrator.operator_sources_file import read_operator_sources
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from tests.support.pages import DOCS

ADDRESSES = AddressPolicy(setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS")
COMMAND = "{program: /bin/server, arguments: [-v], environment: [HOME]}"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    return path


def test_sources_are_read_with_short_names_and_seconds(tmp_path: Path) -> None:
    text = f"""
sources:
  - name: files
    groups: [sales]
    mcp_command: {COMMAND}
    on_change: accept
    policies: [{{tools: "w*", approval: always, timeout: 1.5}}, {{timeout: 1m30s}}]
  - name: web
    mcp: {{url: "https://mcp.example.com", era: ERA_PLACE}}
""".replace("ERA_PLACE", "legacy")
    files, web = read_operator_sources(write(tmp_path, text), ADDRESSES)
    assert files.spec.endpoint == LocalCommand("/bin/server", ("-v",), ("HOME",))
    assert (files.groups, web.groups) == (frozenset({"sales"}), None)
    assert (files.is_for("sales"), files.is_for("legal"), web.is_for("legal")) == (True, False, True)
    assert (files.spec.on_change, web.spec.on_change) == (OnToolChange.ACCEPT, OnToolChange.BLOCK)
    policy, other = files.spec.policies
    assert other.timeout == 90
    assert (policy.tools, policy.approval, policy.timeout) == ("w*", ApprovalRule.ALWAYS, 1.5)
    assert web.spec.endpoint == McpServer("https://mcp.example.com", era=McpEra.LEGACY)


def test_the_files_that_the_page_of_tools_shows_are_read(tmp_path: Path) -> None:
    page = (DOCS / "tools.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(sources:.*?)^```", page, re.MULTILINE | re.DOTALL)
    sources = [source for block in blocks for source in read_operator_sources(write(tmp_path, block), ADDRESSES)]
    assert [source.groups for source in sources] == [frozenset({"sales", "legal"}), frozenset({"support"})]
    files, desk = (source.spec.endpoint for source in sources)
    assert files == LocalCommand("/opt/tools/files-server", ("--read-only",), ("HOME",))
    assert isinstance(desk, PythonTools)


def test_no_file_declares_nothing() -> None:
    assert read_operator_sources(None, ADDRESSES) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- name: a", ' has to hold a list of sources under the key "sources"'),
        ("sources:\n  - name: a\n   mcp: {}", ", line 3: is not valid YAML: "),
        ("sources:\n- text", ", line 2: sources[0]: has to be a source"),
        ("sources:\n- name: Bad Name\n  mcp: {url: 'https://a.example.com'}", ", line 2: sources[0].name: "),
        ("sources: [{name: a}]", "sources[0].kind: "),
        ("sources:\n- name: a\n  mcp:\n    url: http://a.example.com", ", line 4: sources[0].mcp.url: "),
        (
            "sources:\n- name: a\n  mcp: {url: 'https://a.example.com'}\n  polices: []",
            ', line 4: sources[0].polices: there is no such field; did you mean "policies"?',
        ),
        (
            "sources: [{name: a, mcp: {url: 'https://a.example.com', era: stone}}]",
            "sources[0].mcp.era: has to be one of auto, legacy, modern, and is 'stone'",
        ),
        ("sources: [{name: a, mcp: 'https://a.example.com'}]", "mcp: has to be a mapping with fields such as url"),
        (
            "sources: [{name: 7, mcp: {url: 'https://a'}}]",
            "sources[0].name: has to be text (in quotes), and is a number",
        ),
        (
            "sources:\n- name: a\n  mcp: {url: 'https://a.example.com'}\n  policies:\n  - {tools: x, timeout: soon}",
            ", line 5: sources[0].policies[0].timeout: has to be a duration such as 90, 30s or 1h30m, and is text",
        ),
        (
            f"sources: [{{name: a, mcp_command: {COMMAND}, mcp: {{url: 'https://a.example.com'}}}}]",
            "sources[0].mcp: give either mcp_command or mcp, not both",
        ),
        (
            "sources: [{name: a, groups: sales, mcp: {url: 'https://a.example.com'}}]",
            "sources[0].groups: has to be a list",
        ),
        (f"sources: [{{name: a, mcp_command: {COMMAND}}}, {{name: a, mcp_command: {COMMAND}}}]", "already the name"),
        ("sources: [{name: a, mcp_command: {program: ''}}]", "sources[0].mcp_command.program: has to name a program"),
    ],
)
def test_what_is_wrong_ends_the_start_and_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StartError) as error:
        read_operator_sources(write(tmp_path, text), ADDRESSES)
    assert said in str(error.value)
    assert str(error.value).startswith("COXSWAIN_TOOLS_SOURCES_FILE=")


def test_the_variables_are_those_of_the_tool_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COXSWAIN_TOOLS_SOURCES_FILE", str(tmp_path / "sources.yaml"))
    monkeypatch.setenv("COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS", '["10.20.0.0/16"]')
    settings = read_settings(OrchestratorSettings)
    assert settings.tool_sources_file == tmp_path / "sources.yaml"
    assert settings.tool_egress_allowed_networks == ToolGatewaySettings().egress_allowed_networks


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = "sources:\n- {name: a, mcp: {urls: x}}\n- {name: b, mcp: {url: 'https://b.example.com', era: stone}, on: 1}"
    with pytest.raises(StartError) as error:
        read_operator_sources(write(tmp_path, text), ADDRESSES)
    places = [line.partition(", ")[2].split(": ")[:2] for line in str(error.value).splitlines()]
    assert places == [
        ["line 2", "sources[0].mcp.urls"],
        ["line 3", "sources[1].mcp.era"],
        ["line 3", "sources[1].True"],
    ]


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="does not exist"):
        read_operator_sources(tmp_path / "nothing.yaml", ADDRESSES)
