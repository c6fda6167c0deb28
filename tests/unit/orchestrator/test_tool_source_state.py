"""Whether a source can be used is told as it is now, not as it was when it was listed."""

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.egress import AddressPolicy
from services.orchestrator.domain.tool_source import (
    GrpcProvider,
    HttpApi,
    McpServer,
    SourceEndpoint,
    SourceKind,
    ToolSource,
    ToolSourceSpec,
)
from services.orchestrator.usecases.tool_source_state import state_problem

NOW = datetime(2026, 11, 29, tzinfo=UTC)
CLOSED = AddressPolicy(setting="NETWORKS")
OPEN = AddressPolicy([ipaddress.ip_network("127.0.0.0/8")], setting="NETWORKS")


def listed(kind: SourceKind, endpoint: SourceEndpoint) -> ToolSource:
    spec = ToolSourceSpec("billing", kind, endpoint)
    return ToolSource("s", "sales", 1, spec, tools=(), created_at=NOW, updated_at=NOW, list_revision=1, listed_at=NOW)


@pytest.mark.parametrize(
    ("kind", "endpoint"),
    [
        (SourceKind.MCP, McpServer("http://127.0.0.1:8000/mcp")),
        (SourceKind.MCP, McpServer("http://localhost:8000/mcp")),
        (SourceKind.GRPC, GrpcProvider("127.0.0.1:50061", plaintext=True)),
        (SourceKind.HTTP, HttpApi("https://127.0.0.1/v1", ())),
    ],
)
def test_a_source_in_a_network_that_was_closed_since_is_not_ready(kind: SourceKind, endpoint: SourceEndpoint) -> None:
    source = listed(kind, endpoint)
    assert state_problem(source, OPEN) == ""
    assert "NETWORKS" in state_problem(source, CLOSED)


def test_a_source_that_was_never_listed_or_is_switched_off_says_so() -> None:
    source = listed(SourceKind.MCP, McpServer("https://mcp.example.com"))
    assert state_problem(source, CLOSED) == ""
    assert "could not be listed yet: away" in state_problem(replace(source, list_revision=0, list_error="away"), CLOSED)
    assert "switched off" in state_problem(replace(source, spec=replace(source.spec, disabled=True)), CLOSED)
