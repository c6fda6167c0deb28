"""A server of the legacy era, on version 1 of the official package; it is run by its path."""

import argparse
import asyncio
import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.utilities.types import Image
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import McpError, UrlElicitationRequiredError
from pydantic import BaseModel

VISITED: set[str] = set()
AnyContext = Context[Any, Any, Any]


class Events(EventStore):
    """Keeps what streams have said, so that clients can read on."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        last = int(last_event_id)
        stream = self.events[last - 1][0]
        for number, (other, message) in enumerate(self.events[last:], last + 1):
            if other == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Address(BaseModel):
    street: str
    number: int = 1


class Login(BaseModel):
    password: str


class Total(BaseModel):
    total: int
    label: str


def note(ledger: str, line: str) -> None:
    """Keep what the server has done where a test can read it."""
    with Path(ledger).open("a") as paid:
        paid.write(f"{line}\n")


def build(ledger: str, port: int, events: EventStore | None, *, json_response: bool) -> FastMCP:
    server = FastMCP(
        "legacy", port=port, event_store=events, retry_interval=10, json_response=json_response, log_level="ERROR"
    )

    add_work(server, ledger)
    add_questions(server)
    add_contents(server)
    return server


def add_work(server: FastMCP, ledger: str) -> None:
    @server.tool(annotations=types.ToolAnnotations(readOnlyHint=True))
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
        await asyncio.sleep(pause)
        if then == "die":
            os._exit(1)
        return f"paid {key}"

    @server.tool()
    async def who(ctx: AnyContext) -> str:
        """Say which credential came, in a form that tells nobody."""
        request = ctx.request_context.request
        return hashlib.sha256(str(request and request.headers.get("authorization")).encode()).hexdigest()

    @server.tool()
    async def steps(count: int, ctx: AnyContext) -> str:
        """Tell of progress."""
        for step in range(count):
            await ctx.report_progress(step + 1, count, f"step {step + 1}")
        return "done"

    @server.tool()
    async def interrupted(key: str, ctx: AnyContext) -> str:
        """Close the stream in the middle of the call."""
        note(ledger, key)
        await ctx.report_progress(1, 2, "half")
        await ctx.close_sse_stream()
        await asyncio.sleep(0.05)
        return "continued"


def add_questions(server: FastMCP) -> None:
    @server.tool()
    async def deliver(ctx: AnyContext) -> str:
        """Ask where to."""
        answer = await ctx.elicit("Where to?", Address)
        return f"{answer.action} {answer.data.street if answer.action == 'accept' else ''}"

    @server.tool()
    async def sign_in(ctx: AnyContext) -> str:
        """Ask for a password, which is not done."""
        return (await ctx.elicit("Who are you?", Login)).action

    @server.tool()
    async def visit(ctx: AnyContext) -> str:
        """Send a person to a page."""
        return (await ctx.elicit_url("Please sign in.", "https://example.com/sign-in", "1")).action

    @server.tool()
    async def needs_visit() -> str:
        """Do nothing before a person has been at a page."""
        if not VISITED:
            VISITED.add("1")
            raise UrlElicitationRequiredError(
                [
                    types.ElicitRequestURLParams(
                        mode="url", message="Sign in first.", url="https://example.com/first", elicitationId="1"
                    )
                ]
            )
        return "was there"

    @server.tool()
    async def ask_model(ctx: AnyContext) -> str:
        """Ask for sampling, which is not offered."""
        message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="hello"))
        try:
            await ctx.session.create_message([message], max_tokens=10, related_request_id=ctx.request_id)
        except McpError as error:
            return f"refused: {error}"
        return "answered"


def add_contents(server: FastMCP) -> None:
    @server.tool()
    async def grow(ctx: AnyContext) -> str:
        """Add a tool and tell of it."""
        server.add_tool(lambda: "new", name="grown", description="Came later.")
        await ctx.session.send_tool_list_changed()
        return "grown"

    @server.tool()
    def picture() -> Image:
        """Return a picture."""
        return Image(data=base64.b64decode("iVBORw0KGgo="), format="png")

    @server.tool()
    def links(count: int) -> list[types.ResourceLink]:
        """Link to resources."""
        return [
            types.ResourceLink(type="resource_link", name=f"note {number}", uri=f"notes://{number}")
            for number in range(count)
        ]

    @server.resource("notes://{number}")
    def note(number: str) -> str:
        """A note."""
        return f"This is note {number}."

    @server.tool()
    def fail() -> str:
        """Fail."""
        raise ValueError("out of paper")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--transport", default="streamable-http")
    parser.add_argument("--ledger", default=os.devnull)
    parser.add_argument("--events", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    server = build(options.ledger, options.port, Events() if options.events else None, json_response=options.json)
    server.run(transport=options.transport)


if __name__ == "__main__":
    main()
