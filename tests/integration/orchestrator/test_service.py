"""The orchestrator's API as a whole."""

import subprocess
import sys

from coxswain.orchestrator.v1 import tool_pb2
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from services.orchestrator.tool_catalogue import TOOLS
from tests.support.harness import Harness


async def test_tools_are_listed_with_the_schemas_that_validation_uses(harness: Harness) -> None:
    answer = await ToolServiceStub(harness.channel()).ListTools(tool_pb2.ListToolsRequest())
    assert [tool.name for tool in answer.tools] == list(TOOLS)
    for tool in answer.tools:
        assert tool.description == TOOLS[tool.name].description
        assert tool.config_schema["additionalProperties"] is False
        assert tool.arguments_schema["type"] == "object"


def test_the_api_process_loads_neither_crewai_nor_litellm() -> None:
    code = (
        "import sys, services.orchestrator.__main__, services.orchestrator.service; "
        "print([name for name in ('crewai', 'litellm', 'chromadb') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
