"""The example of a tool provider, and the check that says what of a provider conforms."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from coxswain.client.cli.app import app
from coxswain.tools.v1 import tool_provider_pb2 as pb
from examples.tool_provider.python.server import Provider
from services.orchestrator.tool_gateway.adapters.grpc_provider.adapter import GrpcProviderAdapter
from services.orchestrator.tool_gateway.ports import CallRefused
from tests.support.tool_provider import (
    LOOPBACK,
    EmulatedProvider,
    GivenHeaders,
    RecordedProgress,
    accepted,
    call_of,
    principal,
    provided_tool,
    result,
    served,
    source,
    write_authority,
)

Responses = AsyncIterator[pb.CallToolResponse]
EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "tool_provider"
NUMBER = '{"number": "17"}'


async def checked(port: int, *arguments: str) -> Result:
    def run() -> Result:
        return CliRunner().invoke(app, ["tool", "provider", "check", f"127.0.0.1:{port}", "--json", *arguments])

    return await asyncio.to_thread(run)


def verdicts(checked: Result) -> dict[str, str]:
    return {finding["step"]: finding["verdict"] for finding in json.loads(checked.stdout)}


def faults(checked: Result) -> str:
    return " | ".join(each["text"] for each in json.loads(checked.stdout) if each["verdict"] == "fault")


async def test_the_example_conforms() -> None:
    provider = Provider()
    async with served(provider) as port:
        found = await checked(port, "--tool", "pay_invoice", "--arguments", NUMBER)
    assert found.exit_code == 0, found.stdout
    assert verdicts(found) == {
        "list the tools": "conforms",
        "refuse an unknown tool": "conforms",
        # It has started a moment ago and keeps its calls in memory, so it may have lost one.
        "ask for an unknown call": "allowed",
        "cancel an unknown call": "conforms",
        "refuse arguments that are no object": "conforms",
        "call a tool": "conforms",
        "repeat a call": "conforms",
        "cut a call": "conforms",
        "cancel a call": "conforms",
    }
    assert all(call.done() for call in provider.calls.values())


async def test_the_example_is_called_by_the_gateway() -> None:
    provider = Provider()
    calls = GrpcProviderAdapter(LOOPBACK, GivenHeaders())
    async with served(provider) as port:
        spec = source(f"127.0.0.1:{port}")
        listed = await calls.list_tools(spec, principal())
        request = call_of(spec, tool="pay_invoice", arguments=json.loads(NUMBER))
        paid = [await calls.call(request, RecordedProgress()) for _ in range(2)]
        paid.append(await calls.resume(request, "", RecordedProgress()))
        with pytest.raises(CallRefused) as refused:
            await calls.call(call_of(spec, "other", tool="pay_invoice"), RecordedProgress())
        await calls.close()
    assert [tool.name for tool in listed] == ["get_invoice", "pay_invoice"]
    assert [each.structured for each in paid] == [{"payment": "P-17"}] * 3
    assert len(provider.calls) == 1
    assert refused.value.reason == "TOOL_ARGUMENTS"


async def takes_anything(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    yield result()


async def never_accepts(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield result()


async def ends_twice(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    yield result()
    yield result()


async def ends_without_a_result(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()


async def returns_no_json(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
    yield accepted()
    yield result(structured_json="{")


@pytest.mark.parametrize(
    ("deliver", "fault"),
    [
        (takes_anything, "NOT_FOUND instead of Accepted"),
        (takes_anything, 'the arguments "[]" have to be refused'),
        (never_accepts, "it sent result before Accepted"),
        (ends_twice, "it sent result after the end"),
        (ends_without_a_result, "ends with a result or a question"),
        (returns_no_json, "structured_json is not valid JSON"),
    ],
)
async def test_faults_of_calls_are_named(deliver: Any, fault: str) -> None:
    async with served(EmulatedProvider(deliver=deliver)) as port:
        found = await checked(port, "--tool", "pay")
    assert found.exit_code == 1
    assert fault in faults(found)


async def test_a_provider_that_forgets_what_it_says_to_keep_is_found_out() -> None:
    async def never_seen(request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        return pb.GetCallResponse(state=pb.CALL_STATE_NEVER_SEEN)

    async with served(EmulatedProvider(deliver=takes_anything, get_call=never_seen)) as port:
        found = await checked(port, "--tool", "pay")
    assert "it may have been made twice" in faults(found)
    assert "cut, is NEVER_SEEN" in faults(found)


def listing(*tools: pb.ProvidedTool, token: str = "") -> Callable[[pb.ListToolsRequest, Any], Any]:
    async def list_tools(request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        return pb.ListToolsResponse(tools=tools, next_page_token=token)

    return list_tools


@pytest.mark.parametrize(
    ("list_tools", "fault"),
    [
        (listing(provided_tool("a"), provided_tool("a")), "it lists a twice"),
        (listing(provided_tool("a b")), "visible ASCII"),
        (listing(pb.ProvidedTool(name="a")), "has no description"),
        (listing(pb.ProvidedTool(name="a", description="A", input_schema_json="[]")), "not a JSON object"),
        (listing(token="1"), "leads back"),
        (listing(provided_tool("other")), "does not list pay"),
    ],
)
async def test_faults_of_the_list_are_named_and_nothing_is_called_then(list_tools: Any, fault: str) -> None:
    provider = EmulatedProvider(list_tools=list_tools)
    async with served(provider) as port:
        found = await checked(port, "--tool", "pay")
    assert fault in faults(found)
    assert provider.delivered == []


async def test_a_provider_with_a_certificate_and_a_credential_is_checked(tmp_path: Path) -> None:
    write_authority(tmp_path, "localhost")

    async def careful(request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        if ("authorization", "Bearer x:y") not in [tuple(entry) for entry in context.invocation_metadata()]:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return pb.ListToolsResponse(tools=[provided_tool("pay")])

    async def has_none(provider: EmulatedProvider, request: pb.CallToolRequest, context: Any) -> Responses:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such tool")
        yield accepted()

    async with served(EmulatedProvider(deliver=has_none, list_tools=careful), directory=tmp_path) as port:
        address, authority = f"https://localhost:{port}", str(tmp_path / "ca.pem")
        for header, exit_code in (("Authorization: Bearer x:y", 0), ("authorization: z", 1)):
            command = ["tool", "provider", "check", address, "--ca-file", authority, "--header", header]
            found = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert ("who are you?" in found.stdout) == bool(exit_code)
            assert found.exit_code == exit_code


@pytest.mark.parametrize("arguments", [["--arguments", "{"], ["--header", "x"]])
async def test_wrong_usage_is_told(arguments: list[str]) -> None:
    assert (await checked(1, *arguments)).exit_code == 2


async def test_what_cannot_be_reached_is_told() -> None:
    found = await checked(1)
    assert found.exit_code == 1
    assert list(verdicts(found)) == ["list the tools"]


@pytest.mark.large
async def test_the_example_in_typescript_conforms(tmp_path: Path) -> None:
    """It is installed as its README says: a registry of npm is reachable, or its packages are in the cache of npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    directory = tmp_path / "provider"
    await asyncio.to_thread(shutil.copytree, EXAMPLES / "typescript", directory)
    install = [npm, "install", "--prefer-offline", "--no-audit", "--no-fund", "--no-package-lock"]
    assert await (await asyncio.create_subprocess_exec(*install, cwd=directory)).wait() == 0
    server = await asyncio.create_subprocess_exec(
        *(directory / "node_modules" / ".bin" / "tsx", "server.ts", "127.0.0.1:0"),
        cwd=directory,
        env=os.environ | {"PROTOS": str(EXAMPLES.parents[1] / "protos")},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    try:
        port = int((await server.stdout.readline()).decode().rpartition(" ")[2])
        found = await checked(port, "--tool", "pay_invoice", "--arguments", NUMBER)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        await server.wait()
    assert found.exit_code == 0, found.stdout
    assert "fault" not in verdicts(found).values()
