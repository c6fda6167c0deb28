"""Built-in tools with missing and odd arguments: whoever calls one is told what is wrong with them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from jsonschema import Draft202012Validator

from coxswain.orchestrator.v1 import tool_pb2
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from services.common.grpc.json_values import to_struct
from services.orchestrator.tool_catalogue import TOOLS
from tests.support.harness import ALICE, Harness, loopback_tools, serve_services
from tests.support.tool_gateway import GatewayCaller

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ODD: tuple[Any, ...] = (None, [], -1, "")
_ODD_JSON: tuple[Any, ...] = (None, 1.5, {"a": []}, 10**30, "\0", "\ud800", "http://[", "http://\u2028/")
_ORIGINS = {"origins": ["http://127.0.0.1:9"]}
_CONFIG: Mapping[str, Mapping[str, Any]] = {
    "databricks_genie": {"space_id": "space"},
    "databricks_job_run": {"job_id": 1},
    "databricks_sql": {"warehouse_id": "warehouse"},
    "databricks_uc_function": {"function": "main.tools.look"},
    "databricks_vector_search": {"index": "main.tools.notes", "columns": ["id"]},
    "http_request": _ORIGINS,
    "web_fetch": _ORIGINS,
}
_OF_GATEWAY = sorted(name for name, tool in TOOLS.items() if not (tool.in_crew_process or tool.in_host))
_AT_ONCE = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    directory = tmp_path_factory.mktemp("odd")
    async with serve_services(directory, "orchestrator", "tools", settings={"tools": loopback_tools()}) as served:
        yield served


def _odd_arguments(name: str, values: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Yield arguments with one odd value each, after none at all and one that no tool knows."""
    schema = TOOLS[name].arguments_schema
    # Nothing is at this address, and no crew here allows it.
    usual = dict.fromkeys(schema.get("required", ()), "http://127.0.0.1:10/")
    yield {}
    yield {**usual, "unheard_of": 1}
    for argument in schema["properties"]:
        for odd in values:
            yield {**usual, argument: odd}


def _follows_schema(name: str, arguments: Mapping[str, Any]) -> bool:
    return bool(Draft202012Validator(TOOLS[name].arguments_schema).is_valid(arguments))


@pytest.mark.parametrize("name", _OF_GATEWAY)
async def test_the_gateway_refuses_odd_arguments_of_its_own_tools(harness: Harness, name: str) -> None:
    caller, places = GatewayCaller.of(harness), asyncio.Semaphore(_AT_ONCE)

    async def reason_of(arguments: Mapping[str, Any]) -> str:
        async with places:
            try:
                outcome = await caller.call(name, json.dumps(arguments), config=_CONFIG.get(name))
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return outcome.failure.reason

    odd = list(_odd_arguments(name, _ODD_JSON))
    reasons = await asyncio.gather(*map(reason_of, odd))
    for arguments, reason in zip(odd, reasons, strict=True):
        assert reason not in {"INTERNAL", "UNKNOWN"}, (arguments, reason)
        assert _follows_schema(name, arguments) or reason in {"TOOL_ARGUMENTS", "INVALID_ARGUMENT"}, (arguments, reason)


@pytest.mark.parametrize("name", sorted(TOOLS))
async def test_tests_of_built_in_tools_with_odd_arguments_are_refused(harness: Harness, name: str) -> None:
    stub: ToolServiceAsyncStub = ToolServiceStub(harness.channel(ALICE))
    places = asyncio.Semaphore(_AT_ONCE)

    async def tested(arguments: Struct) -> str:
        request = tool_pb2.TestToolRequest(
            name=name, arguments=arguments, config=to_struct(_CONFIG.get(name, {})), allow_side_effects=True
        )
        async with places:
            try:
                return (await stub.TestTool(request)).failure.reason
            except grpc.aio.AioRpcError as error:
                return error.code().name

    odd = list(_odd_arguments(name, _ODD))
    reasons = await asyncio.gather(*(tested(to_struct(arguments)) for arguments in odd))
    for arguments, reason in zip(odd, reasons, strict=True):
        assert reason not in {"INTERNAL", "UNKNOWN"}, (arguments, reason)
        if name in _OF_GATEWAY:
            assert _follows_schema(name, arguments) or reason == "INVALID_ARGUMENT", (arguments, reason)
        else:
            assert reason in {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}, (arguments, reason)
