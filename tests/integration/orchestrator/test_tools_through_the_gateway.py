"""Sources and single calls through the real tool gateway, to servers on loopback."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from coxswain.orchestrator.v1 import tool_pb2
from coxswain.orchestrator.v1 import tool_source_pb2 as pb
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import ToolSourceServiceStub
from coxswain.orchestrator.v1.tool_usage_pb2 import QueryToolUsageRequest
from services.common.grpc.json_values import to_struct
from services.common.ids import new_id
from services.orchestrator.settings import OrchestratorSettings
from tests.support.child_process import free_port
from tests.support.fake_tool_gateway import FakeToolGateway, serve_fake_gateway, tool
from tests.support.harness import Harness, serve_services
from tests.support.tool_adapters import RecordingApi

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import ToolSourceServiceAsyncStub

SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    settings = OrchestratorSettings(tool_egress_allowed_networks=["127.0.0.0/8"])
    async with serve_services(
        tmp_path, "models", "orchestrator", "tools", settings={"orchestrator": settings}
    ) as served:
        yield served


async def test_a_source_is_listed_by_a_gateway_that_starts_a_little_later(tmp_path: Path) -> None:
    settings = OrchestratorSettings(tool_egress_allowed_networks=["127.0.0.0/8"])
    async with serve_services(tmp_path, "models", "orchestrator", settings={"orchestrator": settings}) as harness:
        port = free_port()
        harness.host._addresses["tools"] = f"127.0.0.1:{port}"  # type: ignore[index]
        spec = pb.ToolSourceSpec(name="desk", mcp=pb.McpServer(url="http://127.0.0.1:1/mcp"))
        sources = ToolSourceServiceStub(harness.channel())
        creating = asyncio.ensure_future(sources.CreateToolSource(pb.CreateToolSourceRequest(spec=spec)))
        await eventually_stored(sources)
        async with serve_fake_gateway(FakeToolGateway(tools=[tool("pay")]), port):
            created = (await creating).source
    assert (created.tool_count, created.list_error) == (1, "")


async def eventually_stored(sources: "ToolSourceServiceAsyncStub") -> None:
    """Wait until a source is stored, which is before it is listed."""
    while not (await sources.ListToolSources(pb.ListToolSourcesRequest())).sources:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.02)


async def test_a_call_outside_an_execution_is_made_once(harness: Harness) -> None:
    sources, tools = ToolSourceServiceStub(harness.channel()), ToolServiceStub(harness.channel())
    async with RecordingApi() as api:
        spec = pb.ToolSourceSpec(name="shop", http=pb.HttpApi(base_url=api.url))
        for name, method in (("look", "GET"), ("order", "POST")):
            spec.http.operations.add(
                name=name, description="It.", method=method, path="/{id}", arguments_schema=to_struct(SCHEMA)
            )
        spec.policies.add(tools="order", cost=0.25)
        created = (await sources.CreateToolSource(pb.CreateToolSourceRequest(spec=spec))).source
        assert (created.tool_count, created.list_error) == (2, "")
        api.answer("/7", '{"stock": 3}')
        request = tool_pb2.TestToolRequest(
            name="shop/order", arguments=to_struct({"id": "7"}), allow_side_effects=True, request_id=new_id()
        )
        for _ in range(2):
            answer = await tools.TestTool(request)
            assert answer.result.structured_json == '{"stock":3}'
        assert [sent.target for sent in api.requests] == ["/7"]
        looked = await tools.TestTool(tool_pb2.TestToolRequest(name="shop/look", arguments=to_struct({"id": "7"})))
        assert not looked.result.is_error
        used = await tools.QueryToolUsage(QueryToolUsageRequest(source="shop"))
        assert [(row.tool, row.calls, row.failed_calls, row.cost) for row in used.rows] == [
            ("shop/look", 1, 0, 0.0),
            ("shop/order", 1, 0, 0.25),
        ]
        assert used.rows[1].argument_bytes == len('{"id":"7"}')
        assert used.rows[1].result_bytes == len('{"stock":3}')
        listed = await tools.ListTools(tool_pb2.ListToolsRequest(source="shop"))
        assert [(tool.name, tool.idempotent) for tool in listed.tools] == [("shop/look", True), ("shop/order", False)]


async def test_arguments_that_cannot_be_checked_now_are_no_fault_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr("services.common.schema_checks.checker._PROGRAM", tmp_path / "ends.py")
    settings = OrchestratorSettings(tool_egress_allowed_networks=["127.0.0.0/8"])
    async with (
        serve_services(tmp_path, "models", "orchestrator", "tools", settings={"orchestrator": settings}) as harness,
        RecordingApi() as api,
    ):
        spec = pb.ToolSourceSpec(name="shop", http=pb.HttpApi(base_url=api.url))
        spec.http.operations.add(
            name="look", description="It.", method="GET", path="/{id}", arguments_schema=to_struct(SCHEMA)
        )
        sources, tools = ToolSourceServiceStub(harness.channel()), ToolServiceStub(harness.channel())
        await sources.CreateToolSource(pb.CreateToolSourceRequest(spec=spec))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tools.TestTool(tool_pb2.TestToolRequest(name="shop/look", arguments=to_struct({"id": "7"})))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert api.requests == []


async def test_a_check_tells_where_the_way_ends(harness: Harness) -> None:
    stub = ToolSourceServiceStub(harness.channel())
    spec = pb.ToolSourceSpec(name="away", mcp=pb.McpServer(url=f"http://127.0.0.1:{free_port()}/mcp"))
    created = (await stub.CreateToolSource(pb.CreateToolSourceRequest(spec=spec))).source
    assert created.list_revision == 0
    assert created.list_error
    found = [answer async for answer in stub.CheckToolSource(pb.CheckToolSourceRequest(id=created.id))]
    assert [(answer.step, answer.ok) for answer in found] == [(pb.CheckToolSourceResponse.STEP_ADDRESS, False)]
