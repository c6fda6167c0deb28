"""The built-in tools crews can use, described; one module for each family.

What they do is elsewhere: pure tools in `worker/crew/tools`, those for what belongs to an execution in
`worker/host/host_tools`, all others in `tool_gateway/builtin`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue import databricks, files, memory, people, pure, results, web

_FAMILIES = (databricks.TOOLS, files.TOOLS, memory.TOOLS, people.TOOLS, pure.TOOLS, results.TOOLS, web.TOOLS)

TOOLS: Mapping[str, Tool] = MappingProxyType(
    {tool.name: tool for tool in sorted((tool for family in _FAMILIES for tool in family), key=lambda tool: tool.name)}
)
"""Every tool by its name, in the order of names."""
