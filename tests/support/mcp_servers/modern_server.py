"""A server of the modern era, on version 2 of the official package, in an environment of its own; run by its path."""

import argparse
import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Annotated, Any

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, Field

TASKS: dict[str, dict[str, Any]] = {}


class Total(BaseModel):
    total: int
    label: str


class TaskParams(types.RequestParams):
    task_id: str = Field(alias="taskId")
    input_responses: dict[str, Any] | None = Field(default=None, alias="inputResponses")


def task(task_id: str) -> dict[str, Any]:
    if task_id not in TASKS:
        raise MCPError(types.INVALID_PARAMS, "Failed to retrieve task: Task not found")
    return TASKS[task_id]


def note(ledger: str, line: str) -> None:
    """Keep what the server has done where a test can read it."""
    with Path(ledger).open("a") as paid:
        paid.write(f"{line}\n")


class Tasks(Extension):
    """The tasks extension as its specification has it."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("tasks/get", TaskParams, self.get),
            MethodBinding("tasks/update", TaskParams, self.update),
            MethodBinding("tasks/cancel", TaskParams, self.cancel),
        ]

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        if params.name != "long_job":
            return await call_next(ctx)
        arguments = params.arguments or {}
        key = arguments["key"]
        note(self.ledger, key)
        TASKS[key] = {"polls": 0, "arguments": arguments, "answer": None, "cancelled": False}
        return {"resultType": "task", **self.shown(key), "status": "working"}

    def shown(self, key: str) -> dict[str, Any]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"taskId": key, "createdAt": now, "lastUpdatedAt": now, "ttlMs": 60000, "pollIntervalMs": 10}

    async def get(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        state = task(params.task_id)
        state["polls"] += 1
        shown = {"resultType": "complete", **self.shown(params.task_id), "statusMessage": f"poll {state['polls']}"}
        arguments = state["arguments"]
        if state["cancelled"]:
            return {**shown, "status": "cancelled"}
        if arguments.get("ask") and state["answer"] is None:
            schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
            question = {"mode": "form", "message": "Your name?", "requestedSchema": schema}
            requests = {"name": {"method": "elicitation/create", "params": question}}
            return {**shown, "status": "input_required", "inputRequests": requests}
        if state["polls"] <= arguments.get("polls", 2):
            return {**shown, "status": "working"}
        if arguments.get("fail"):
            return {**shown, "status": "failed", "error": {"code": -32603, "message": "the printer burns"}}
        text = f"job {params.task_id} done {state['answer'] or ''}".strip()
        return {
            **shown,
            "status": "completed",
            "result": {"content": [{"type": "text", "text": text}], "structuredContent": {"result": text}},
        }

    async def update(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        task(params.task_id)["answer"] = (params.input_responses or {})["name"].get("content", {}).get("name", "nobody")
        return {"resultType": "complete"}

    async def cancel(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        task(params.task_id)["cancelled"] = True
        note(self.ledger, f"cancelled {params.task_id}")
        return {"resultType": "complete"}


def question(key: str, params: dict[str, Any], state: str | None) -> types.InputRequiredResult:
    return types.InputRequiredResult.model_validate(
        {
            "resultType": "input_required",
            "inputRequests": {key: {"method": "elicitation/create", "params": params}},
            "requestState": state,
        }
    )


def build(ledger: str, ttl: int, scope: Any) -> MCPServer:
    server = MCPServer(
        "modern",
        log_level="CRITICAL",
        extensions=[Tasks(ledger)],
        cache_hints={"tools/list": CacheHint(ttl_ms=ttl, scope=scope)},
    )

    add_work(server, ledger)
    add_questions(server)
    return server


def add_work(server: MCPServer, ledger: str) -> None:
    @server.tool(annotations=types.ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int) -> Total:
        """Add two numbers."""
        return Total(total=a + b, label="sum")

    @server.tool()
    def echo(value: Any) -> str:
        """Say what was received."""
        return repr(value)

    @server.tool()
    async def pay(key: str, pause: float = 0.0, then: str = "") -> str:
        """Pay once."""
        note(ledger, key)
        try:
            await asyncio.sleep(pause)
        except BaseException:
            note(ledger, f"cancelled {key}")
            raise
        if then == "die":
            os._exit(1)
        return f"paid {key}"

    @server.tool()
    async def steps(count: int, ctx: Context) -> str:
        """Tell of progress."""
        for step in range(count):
            await ctx.report_progress(step + 1, count, f"step {step + 1}")
        return "done"

    @server.tool()
    async def routed(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})], ctx: Context) -> str:
        """Say which region the header named."""
        return str((ctx.headers or {}).get("mcp-param-region"))

    @server.tool()
    async def who(ctx: Context) -> str:
        """Say which credential came, in a form that tells nobody."""
        return hashlib.sha256(str((ctx.headers or {}).get("authorization")).encode()).hexdigest()


def add_questions(server: MCPServer) -> None:
    @server.tool()
    async def deliver(ctx: Context) -> str | types.InputRequiredResult:
        """Ask where to."""
        if ctx.input_responses is None:
            schema = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
            return question("address", {"mode": "form", "message": "Where to?", "requestedSchema": schema}, "the state")
        answer = ctx.input_responses["address"]
        content = getattr(answer, "content", None) or {}
        return f"{answer.action} {content.get('street', '')} {ctx.request_state}"  # type: ignore[union-attr]

    @server.tool()
    async def visit(ctx: Context) -> str | types.InputRequiredResult:
        """Send a person to a page."""
        if ctx.input_responses is None:
            return question("page", {"mode": "url", "message": "Sign in.", "url": "https://example.com/in"}, None)
        return str(ctx.input_responses["page"].action)  # type: ignore[union-attr]

    @server.tool()
    async def roots(ctx: Context) -> str | types.InputRequiredResult:
        """Ask for roots, which are not offered."""
        return types.InputRequiredResult.model_validate(
            {"resultType": "input_required", "inputRequests": {"roots": {"method": "roots/list"}}}
        )

    @server.tool()
    async def insists() -> str:
        """Insist on sampling."""
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling")

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Add a tool and tell of it."""
        server.add_tool(lambda: "new", name="grown", description="Came later.")
        await ctx.notify_tools_changed()
        return "grown"

    @server.tool()
    def long_job(key: str, polls: int = 2, ask: bool = False, fail: bool = False) -> str:
        """Work for a while."""
        return "never reached"

    @server.tool()
    def fail() -> str:
        """Fail."""
        raise ValueError("out of paper")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--transport", default="streamable-http")
    parser.add_argument("--ledger", default=os.devnull)
    parser.add_argument("--ttl", type=int, default=0)
    parser.add_argument("--scope", default="private")
    options = parser.parse_args()
    server = build(options.ledger, options.ttl, options.scope)
    if options.transport == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=options.port)


if __name__ == "__main__":
    main()
