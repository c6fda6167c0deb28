"""One call of a tool on an MCP server, from an agent through worker host and tool gateway, beside the bare MCP client.

Real processes on this machine: the one-port suite on SQLite, a server of the official package, an emulated model that
answers at once. The time of a call is the worker host's, from its journal's intent to its result. CPU is what host,
crew process and gateway use beyond the same crew with a tool that the crew process runs by itself.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from coxswain.client import Client
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskSpec, ToolSpec
from coxswain.orchestrator.v1.tool_source_pb2 import CreateToolSourceRequest, McpServer, ToolPolicy, ToolSourceSpec
from tests.support.child_process import descendants
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply, ToolCall
from tests.support.mcp_servers.processes import LEGACY, McpServerProcess, serving
from tests.support.suite_process import SuiteProcess

_ROUNDS = 10
_CALLS = 15
_BARE = """
import asyncio, json, sys, time
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

async def main():
    async with streamable_http_client(sys.argv[1]) as (read, write, *_), ClientSession(read, write) as session:
        await session.initialize()
        await session.call_tool("add", {"a": 1, "b": 2})
        cpu, times = time.process_time(), []
        for number in range(int(sys.argv[2])):
            began = time.perf_counter()
            await session.call_tool("add", {"a": number, "b": 2})
            times.append(time.perf_counter() - began)
        print(json.dumps({"cpu": (time.process_time() - cpu) / len(times), "times": times}))

asyncio.run(main())
"""


def bare(server: McpServerProcess) -> tuple[float, list[float]]:
    """Return seconds of CPU of a call by the official client, and the seconds each call took."""
    command = [sys.executable, "-c", _BARE, server.url, str(_ROUNDS * _CALLS)]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures["cpu"], figures["times"]


def crew(tool: str) -> CrewSpec:
    """Return a crew whose agent has one tool."""
    return CrewSpec(
        name=f"measured-{tool.replace('/', '-')}",
        agents=[AgentSpec(name="clerk", role="Clerk", goal="Count", tools=[ToolSpec(name=tool)])],
        tasks=[TaskSpec(name="count", description=f"Count with {tool}.", expected_output="Words", agent="clerk")],
        model="openai/gpt-4.1-mini",
    )


def cpu_of(suite: SuiteProcess) -> float:
    """Return seconds of CPU that everything below the suite's own process has used."""
    assert suite.process is not None
    return sum(_seconds(process) for process in descendants(suite.process.pid))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def ours(suite: SuiteProcess, llm: LlmEmulator, tool: str, calls: Sequence[ToolCall]) -> tuple[float, list[float]]:
    """Return seconds of CPU of an execution with these calls of a tool, and the seconds each of them took."""
    times: list[float] = []
    began = 0.0
    with Client(suite.address("orchestrator"), token="dev:alice:sales=admin") as client:
        crew_id = client.apply_crew(crew(tool)).crew.id
        for measured in range(-1, _ROUNDS):
            llm.clear_rules()
            for call in calls:
                llm.on(Reply(tool_calls=[call]), times=1)
            llm.on(Reply(text="Counted."))
            if measured == 0:
                began = cpu_of(suite)
            events = list(client.watch(client.start(crew_id).id))
            ended = [event.tool_call_completed for event in events if event.HasField("tool_call_completed")]
            assert len(ended) == len(calls), events[-1]
            if measured >= 0:
                times += [end.duration.ToNanoseconds() / 1e9 for end in ended]
        return (cpu_of(suite) - began) / _ROUNDS, times


def main() -> None:
    environment = {"COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS": '["127.0.0.0/8"]'}
    with tempfile.TemporaryDirectory(prefix="coxswain-bench-") as directory, LlmEmulator() as llm:
        environment |= {"OPENAI_API_KEY": "sk-emulated-0123456789", "OPENAI_BASE_URL": f"{llm.url}/v1"}
        suite = SuiteProcess(Path(directory) / "data", workers=1, environment=environment)
        with serving(sys.executable, LEGACY, Path(directory) / "ledger") as server, suite.running():
            with Client(suite.address("orchestrator"), token="dev:alice:sales=admin") as client:
                policy = ToolPolicy(tools="*", trust_hints=True)
                spec = ToolSourceSpec(name="desk", mcp=McpServer(url=server.url), policies=[policy])
                client.tool_sources.CreateToolSource(CreateToolSourceRequest(spec=spec))
            bare_cpu, bare_times = bare(server)
            pure = [ToolCall(name="calculator", arguments={"expression": f"{n}+2"}) for n in range(_CALLS)]
            remote = [ToolCall(name="desk__add", arguments={"a": n, "b": 2}) for n in range(_CALLS)]
            pure_cpu, _ = ours(suite, llm, "calculator", pure)
            cpu, times = ours(suite, llm, "desk/add", remote)
    added = (cpu - pure_cpu) / _CALLS
    alone, through = statistics.median(bare_times), statistics.median(times)
    print(f"bare MCP client: p50 {alone * 1000:.1f} ms, {bare_cpu * 1000:.1f} ms CPU of the client")
    print(f"through Coxswain: p50 {through * 1000:.1f} ms, added {(through - alone) * 1000:.1f} ms")
    print(f"CPU beyond a tool of the crew process: {added * 1000:.1f} ms, {added / bare_cpu:.1f} x the bare client's")
    print(f"{_ROUNDS} executions of {_CALLS} calls each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
