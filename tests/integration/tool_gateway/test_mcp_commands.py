"""Local commands of the operator that speak MCP: real servers of both eras over their standard streams."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp import connections
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown
from tests.support.mcp_calls import Caller, Told, by_command, calling, principal
from tests.support.mcp_servers.processes import LEGACY, MODERN, modern_python

# Answers each request with what the command sees of its environment and limits.
SEES = """
import json, os, resource, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, answer = asked["method"], {}
    if method == "server/discover":
        answer = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
    elif method == "tools/list":
        answer = {"tools": [{"name": "see", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_NOFILE)]
        seen = {"environment": dict(os.environ), "limits": limits, "group": os.getpgid(0)}
        seen["processes"] = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        seen["status"] = open("/proc/self/status").read()
        answer = {"content": [], "structuredContent": seen}
    print("what is no message", flush=True)
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
"""


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as ready:
        yield ready


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "--transport" in " ".join(child.cmdline())]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_command_is_listed_called_asked_for_and_ended(era: str, tmp_path: Path) -> None:
    program, script = (sys.executable, LEGACY) if era == "legacy" else (str(modern_python()), MODERN)
    ledger = tmp_path / "ledger"
    source = by_command(program, str(script), "--transport", "stdio", "--ledger", str(ledger))
    async with calling() as caller:
        tools = {tool.name for tool in await caller.adapter.list_tools(source, principal())}
        assert {"add", "pay", "deliver"} <= tools
        assert (await caller.call(source, "add", {"a": 1, "b": 2})).structured == {"total": 3, "label": "sum"}
        told = Told()
        delivered = await caller.call(source, "deliver", told=told)
        assert "accept Main Street" in delivered.text
        assert len(told.questions) == 1
        told = Told()
        await caller.call(source, "steps", {"count": 50}, told)
        assert told.steps[-1] == ("step 50", 1.0)
        assert len(children()) == 1
        with pytest.raises(OutcomeUnknown):
            await caller.call(source, "pay", {"key": "died", "then": "die"})
        assert (await caller.call(source, "pay", {"key": "again"})).structured == {"result": "paid again"}
        assert ledger.read_text().split() == ["died", "again"]
    assert children() == []


async def test_a_command_gets_the_variables_it_names_and_limits(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMED", "yes")
    monkeypatch.setenv("SECRET", "no")
    monkeypatch.setenv("LC_CTYPE", "C")
    source = by_command(sys.executable, "-I", "-c", SEES, environment=("NAMED", "NOT_THERE"))
    seen = (await caller.call(source, "see")).structured
    # Python itself may add its locale.
    assert {name: value for name, value in seen["environment"].items() if name != "LC_CTYPE"} == {"NAMED": "yes"}
    assert all(0 < limit <= 2 * 1024**3 for limit in seen["limits"])
    assert 1024 <= seen["processes"] < 100_000
    assert seen["group"] != os.getpgid(0)
    assert "NoNewPrivs:\t1" in seen["status"]


async def test_the_operator_may_leave_the_number_of_processes_to_the_pod() -> None:
    async with calling(command_processes=0) as caller:
        seen = (await caller.call(by_command(sys.executable, "-I", "-c", SEES), "see")).structured
    assert seen["processes"] == resource.getrlimit(resource.RLIMIT_NPROC)[0]


@pytest.mark.parametrize("command", [("/nowhere/at-all",), (sys.executable, "-c", "pass"), ("true",)])
async def test_a_command_that_does_not_speak_is_not_sent_the_call(caller: Caller, command: tuple[str, ...]) -> None:
    told = Told()
    with pytest.raises((NotSent, CallRefused)):
        await caller.call(by_command(*command), "pay", told=told)
    assert told.sent_times == 0


async def test_a_program_that_there_is_not_is_named(caller: Caller) -> None:
    with pytest.raises(NotSent, match='there is no program "/nowhere/at-all"'):
        await caller.call(by_command("/nowhere/at-all"), "pay", told=Told())


# Knows nothing before the handshake, and ends at it.
BRITTLE = """
import json, sys
answers = {
    "initialize": {"protocolVersion": "2024-11-05", "capabilities": {}},
    "tools/list": {"tools": [{"name": "see", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": "seen"}]},
}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": answers[asked["method"]]}
        print(json.dumps(answer), flush=True)
"""


async def test_a_command_that_ends_at_what_it_does_not_know_is_started_again(caller: Caller) -> None:
    assert (await caller.call(by_command(sys.executable, "-I", "-c", BRITTLE), "see")).text == "seen"


# Takes its time over the first question, and then insists on the era of it.
SLOW = """
import json, sys, time
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if asked["method"] == "initialize":
        answer["error"] = {"code": -32022, "message": "modern", "data": {"supported": ["2026-07-28"]}}
    elif asked["method"] == "server/discover":
        time.sleep(PAUSE)
        answer["result"] = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
    elif asked["method"] == "tools/list":
        answer["result"] = {"tools": [{"name": "see", "inputSchema": {"type": "object"}}]}
    else:
        answer["result"] = {"content": [{"type": "text", "text": "seen"}]}
    print(json.dumps(answer), flush=True)
"""


async def test_a_command_that_starts_slowly_keeps_its_era(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PROBE_SECONDS", 0.1)
    slow = by_command(sys.executable, "-I", "-c", SLOW.replace("PAUSE", "0.5"))
    assert (await caller.call(slow, "see")).text == "seen"


@pytest.mark.parametrize("output", ["'x' * 10**8", "'[' * 10**6", "'{}'", "'[1]'", "chr(0) * 10**6"])
async def test_a_command_that_prints_rubbish_is_not_sent_the_call(caller: Caller, output: str) -> None:
    told = Told()
    with pytest.raises((NotSent, CallRefused)):
        await caller.call(by_command(sys.executable, "-I", "-c", f"print({output})"), "see", told=told)
    assert told.sent_times == 0


async def test_a_cancelled_call_leaves_no_command_behind(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    source: ToolSourceSpec = by_command(sys.executable, str(LEGACY), "--transport", "stdio", "--ledger", str(ledger))
    async with calling() as caller:
        told = Told()
        call = asyncio.create_task(caller.call(source, "pay", {"key": "held", "pause": 3600}, told))
        await told.changes.wait(lambda: told.sent_times == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert children() == []
