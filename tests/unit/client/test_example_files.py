"""Example files, in their directories and in pages, are read, and those of the MCP server go together."""

import importlib.util
import re
from pathlib import Path

import yaml

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


def yaml_blocks(page: str) -> list[str]:
    text = (Path(__file__).parents[3] / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_files_of_tool_sources_in_pages_are_read(tmp_path: Path) -> None:
    blocks = [block for block in yaml_blocks("tools.md") if re.search(r"^name:", block, re.MULTILINE)]
    assert len(blocks) >= 3
    for block in blocks:
        file = tmp_path / "source.yaml"
        file.write_text(block, encoding="utf-8")
        assert load_tool_source(file).WhichOneof("kind")


def test_parts_of_crew_files_in_pages_are_read(tmp_path: Path) -> None:
    blocks = [*yaml_blocks("when-a-model-fails.md"), *yaml_blocks("tools.md")]
    parts = [yaml.safe_load(block) for block in blocks if re.match(r"agents:|model_calls:", block)]
    assert len(parts) == 2
    agent = {"role": "Clerk", "goal": "Pay invoices"}
    for part in parts:
        task = {"description": "Pay {number}.", "expected_output": "A receipt", "agent": "clerk"}
        clerk = part.pop("agents", {}).get("clerk", {})
        crew = {"name": "c", "agents": {"clerk": agent | clerk}, "tasks": {"pay": task}, **part}
        file = tmp_path / "crew.yaml"
        file.write_text(yaml.safe_dump(crew), encoding="utf-8")
        spec = load_crew(file)
        assert spec.agents[0].tools or spec.model_calls.HasField("timeout")
