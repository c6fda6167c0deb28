"""Which adapter makes the calls of which kind of source, and which tools the gateway itself has."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.common.http import EgressClient
from services.orchestrator.domain.tool_source import SourceKind
from services.orchestrator.tool_gateway.adapters.mcp.adapter import McpAdapter
from services.orchestrator.tool_gateway.credentials import SourceCredentials
from services.orchestrator.tool_gateway.ports import BuiltinTool, ToolAdapter
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings


@dataclass(frozen=True, slots=True)
class Outside:
    """What adapters and tools need to reach the world."""

    egress: EgressClient
    credentials: SourceCredentials
    settings: ToolGatewaySettings


def adapters(outside: Outside) -> Mapping[SourceKind, ToolAdapter]:
    """Return the adapter of each kind of source that this installation calls."""
    mcp = McpAdapter(outside.egress, outside.credentials)
    return {SourceKind.MCP: mcp, SourceKind.MCP_COMMAND: mcp}


def builtin_tools(outside: Outside) -> Mapping[str, BuiltinTool]:  # noqa: ARG001 - as above
    """Return the gateway's own tools by their names, which are those in the catalogue."""
    return {}
