"""The orchestrator's API as a whole."""

import subprocess
import sys

import grpc

from coxswain.orchestrator.v1 import schedule_service_pb2, tool_service_pb2
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from services.orchestrator.tool_catalogue import TOOLS
from tests.integration.orchestrator.support import refused
from tests.support.harness import Harness


async def test_tools_are_listed_with_the_schemas_that_validation_uses(harness: Harness) -> None:
    answer = await ToolServiceStub(harness.channel()).ListTools(tool_service_pb2.ListToolsRequest())
    assert [tool.name for tool in answer.tools] == list(TOOLS)
    for tool in answer.tools:
        assert tool.description == TOOLS[tool.name].description
        assert tool.config_schema["additionalProperties"] is False
        assert tool.arguments_schema["type"] == "object"


async def test_what_is_not_there_yet_says_which_part_is_missing(harness: Harness) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED") as refusal:
        await ScheduleServiceStub(harness.channel()).ListSchedules(schedule_service_pb2.ListSchedulesRequest())
    assert refusal.metadata == {"part": "cron schedules"}


def test_the_api_process_loads_neither_crewai_nor_dbos_nor_litellm() -> None:
    code = (
        "import sys, services.orchestrator.__main__, services.orchestrator.service; "
        "print([name for name in ('crewai', 'dbos', 'litellm', 'chromadb') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
