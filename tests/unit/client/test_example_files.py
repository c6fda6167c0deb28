"""The files of the example of an MCP server go together: its source, its crew and its tools."""

import importlib.util
from pathlib import Path

from coxswain.client.crew_file import load_crew
from coxswain.client.tool_source_file import load_tool_source

EXAMPLE = Path(__file__).parents[3] / "examples" / "mcp_server"


async def test_the_crew_of_the_example_names_tools_that_its_server_lists() -> None:
    found = importlib.util.spec_from_file_location("example_server", EXAMPLE / "server.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    source = load_tool_source(EXAMPLE / "billing.yaml")
    listed = {f"{source.name}/{tool.name}" for tool in await module.build(8700).list_tools()}
    named = {tool.name for agent in load_crew(EXAMPLE / "crew.yaml").agents for tool in agent.tools}
    assert listed == named - {"ask_person"}
    assert source.mcp.url == "http://127.0.0.1:8700/mcp"
    assert {policy.tools for policy in source.policies} == {"get_*", "pay"}
