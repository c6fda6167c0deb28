"""Which adapter makes the calls of which kind of source, and which tools the gateway itself has."""

import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.common.egress import AddressPolicy
from services.common.http import EgressClient
from services.orchestrator.domain.tool_source import SourceKind
from services.orchestrator.tool_gateway.adapters.a2a.adapter import A2AAdapter
from services.orchestrator.tool_gateway.adapters.grpc_provider.adapter import GrpcProviderAdapter
from services.orchestrator.tool_gateway.adapters.http import HttpAdapter
from services.orchestrator.tool_gateway.adapters.mcp.adapter import McpAdapter
from services.orchestrator.tool_gateway.adapters.openapi.adapter import OpenApiAdapter
from services.orchestrator.tool_gateway.adapters.python.adapter import PythonToolsAdapter, tool_secrets
from services.orchestrator.tool_gateway.adapters.python.tool_process import ToolProcessLimits
from services.orchestrator.tool_gateway.builtin.databricks.workspace import Workspaces
from services.orchestrator.tool_gateway.builtin.databricks_genie import DatabricksGenie
from services.orchestrator.tool_gateway.builtin.databricks_job_run import DatabricksJobRun
from services.orchestrator.tool_gateway.builtin.databricks_sql import DatabricksSql
from services.orchestrator.tool_gateway.builtin.databricks_uc_function import DatabricksUcFunction
from services.orchestrator.tool_gateway.builtin.databricks_vector_search import DatabricksVectorSearch
from services.orchestrator.tool_gateway.builtin.http_request import HttpRequest
from services.orchestrator.tool_gateway.builtin.web_fetch import WebFetch
from services.orchestrator.tool_gateway.builtin.web_search import WebSearch
from services.orchestrator.tool_gateway.credentials import SourceCredentials
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.ports import BuiltinCheck, BuiltinTool, ToolAdapter
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings


@dataclass(frozen=True, slots=True)
class Outside:
    """What adapters and tools need to reach the world."""

    egress: EgressClient
    policy: AddressPolicy
    """Which addresses a group may choose; what does not speak HTTP checks them itself."""
    credentials: SourceCredentials
    settings: ToolGatewaySettings
    documents: BoundedParser
    """Reads documents of sources."""
    statements: BoundedParser
    """Reads statements of models."""
    pages: BoundedParser
    """Reads pages and files of the web."""


def adapters(outside: Outside) -> Mapping[SourceKind, ToolAdapter]:
    """Return the adapter of each kind of source that this installation calls."""
    egress, credentials, limit = outside.egress, outside.credentials, outside.settings.max_result_bytes
    mcp = McpAdapter(egress, credentials, max_result_bytes=limit, command_processes=outside.settings.command_processes)
    return {
        SourceKind.MCP: mcp,
        SourceKind.MCP_COMMAND: mcp,
        SourceKind.HTTP: HttpAdapter(egress, credentials, max_result_bytes=limit),
        SourceKind.OPENAPI: OpenApiAdapter(egress, credentials, outside.documents, max_result_bytes=limit),
        SourceKind.GRPC: _grpc(outside),
        SourceKind.A2A: _a2a(outside),
        SourceKind.PYTHON: _python(outside.settings),
    }


def builtin_tools(outside: Outside) -> Mapping[str, BuiltinTool]:
    """Return the gateway's own tools by their names, which are those in the catalogue."""
    settings = outside.settings
    workspaces = Workspaces(outside.egress, outside.credentials, max_result_bytes=settings.max_result_bytes)
    return {
        "databricks_genie": DatabricksGenie(workspaces),
        "databricks_job_run": DatabricksJobRun(workspaces),
        "databricks_sql": DatabricksSql(workspaces, outside.statements),
        "databricks_uc_function": DatabricksUcFunction(workspaces),
        "databricks_vector_search": DatabricksVectorSearch(workspaces),
        "http_request": HttpRequest(
            outside.egress,
            outside.credentials,
            max_result_bytes=settings.max_result_bytes,
            operators_origins=settings.http_request_origins,
        ),
        "web_fetch": WebFetch(outside.egress, outside.pages, honor_robots=settings.honor_robots),
        "web_search": WebSearch(
            outside.egress, outside.credentials, base_url=settings.search_base_url, wire=settings.search_wire
        ),
    }


def builtin_checks(outside: Outside, tools: Mapping[str, BuiltinTool]) -> Mapping[str, BuiltinCheck]:
    """Return what finds out whether a group can use a tool of the gateway's own, for those that need something."""
    workspace: BuiltinCheck = outside.credentials.workspace
    checks = {name: workspace for name in tools if name.startswith("databricks_")}
    search = tools["web_search"]
    return checks | ({"web_search": search.key} if isinstance(search, WebSearch) else {})


def _grpc(outside: Outside) -> ToolAdapter:
    settings = outside.settings
    return GrpcProviderAdapter(
        outside.policy,
        outside.credentials,
        authorities=_authorities(),
        max_result_bytes=settings.max_result_bytes,
        connect_seconds=settings.connect_seconds,
    )


def _a2a(outside: Outside) -> ToolAdapter:
    settings = outside.settings
    return A2AAdapter(
        outside.egress,
        outside.policy,
        outside.credentials,
        authorities=_authorities(),
        max_result_bytes=settings.max_result_bytes,
        connect_seconds=settings.connect_seconds,
    )


def _authorities() -> bytes | None:
    """Return the authorities that HTTP trusts here; gRPC would bring others along."""
    authorities = ssl.get_default_verify_paths().cafile
    return Path(authorities).read_bytes() if authorities else None


def _python(settings: ToolGatewaySettings) -> ToolAdapter:
    limits = ToolProcessLimits(
        memory_mib=settings.python_memory_mib,
        cpu_seconds=settings.python_cpu_seconds,
        max_bytes=settings.max_result_bytes,
    )
    return PythonToolsAdapter(
        str(settings.python or sys.executable),
        tool_secrets(os.environ),
        limits=limits,
        most_per_group=settings.python_processes_per_group,
        most=settings.python_processes,
    )
