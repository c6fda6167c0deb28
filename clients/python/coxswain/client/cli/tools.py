"""Commands about tools: tool list, tool test, and those about where tools come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coxswain.client.cli import tool_changes, tool_provider, tool_sources
from coxswain.client.cli.listing import Listing
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, Session, add_row, one_line, session_of
from coxswain.client.cli.tool_usage import tool_usage
from coxswain.client.later import tool_pb2, values
from coxswain.client.paging import pages

app = typer.Typer(cls=ListingGroup, help="List and try the tools of crews.")
app.add_typer(tool_sources.app, name="source")
app.add_typer(tool_provider.app, name="provider")
app.command("usage")(tool_usage)
app.command("changes")(tool_changes.changes)

_EXIT_FAILED = 1


@app.command("list")
def list_tools(
    context: typer.Context,
    source: Annotated[str, typer.Option(help="Only the tools of this source.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the tools that crews can use, and why one cannot be used.

    Example: `coxswain tool list --source billing`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = tool_pb2.ListToolsRequest(page_size=1000, source=source)
        found = list(pages(client.tools.ListTools, request, "tools"))
    if session.json:
        return session.print_json(found)
    made = Listing("name", "repeatable", "approval", "what")
    for tool in found:
        approval = tool_pb2.ToolApproval.Name(tool.approval).removeprefix("TOOL_APPROVAL_").lower()
        what = f"cannot be used: {session.own(tool.problem)}" if tool.problem else tool.description
        add_row(made, tool.name, "yes" if tool.idempotent else "no", approval, one_line(what))
    session.out.print(made if found else "no tools")
    return None


@app.command("test")
def try_tool(
    context: typer.Context,
    tool: Annotated[str, typer.Argument(help="Name of the tool, as `coxswain tool list` shows it.")],
    arguments: Annotated[str, typer.Argument(help="Its arguments as a JSON object, or @FILE with them.")] = "{}",
    config: Annotated[str, typer.Option(help="Settings of a built-in tool, as a JSON object.")] = "{}",
    allow_side_effects: Annotated[
        bool, typer.Option("--allow-side-effects", help="Call it although it does something, such as paying.")
    ] = False,
    request_id: Annotated[
        str, typer.Option(help="Repeating the command with the same one never makes the call twice.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Make one call of a tool outside of an execution. It exits with 1 when the call has failed.

    Example: `coxswain tool test billing/get_invoice '{"id": "4711"}'`
    """
    session = session_of(context, as_json)
    request = tool_pb2.TestToolRequest(name=tool, allow_side_effects=allow_side_effects, request_id=request_id)
    request.arguments.CopyFrom(_object(arguments, "ARGUMENTS"))
    request.config.CopyFrom(_object(config, "--config"))
    with session.client() as client:
        outcome = client.tools.TestTool(request)
    if session.json:
        session.print_json(outcome)
    else:
        _show_outcome(session, outcome)
    if outcome.WhichOneof("outcome") != "result" or outcome.result.is_error:
        raise typer.Exit(_EXIT_FAILED)


def _object(text: str, what: str) -> Any:
    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not valid JSON: {error}", param_hint=what) from error
    if not isinstance(document, dict):
        raise typer.BadParameter('has to be a JSON object, as in {"id": "4711"}', param_hint=what)
    return values.to_value(document, what).struct_value


def _show_outcome(session: Session, outcome: tool_pb2.TestToolResponse) -> None:
    match outcome.WhichOneof("outcome"):
        case "result":
            if outcome.result.is_error:
                session.say("the tool says that it failed", "red")
            session.show(outcome.result.structured_json or outcome.result.text)
        case "failure":
            session.say(f"not called: {outcome.failure.message} ({outcome.failure.reason})", "red")
        case _:
            session.say(f"it is not known whether the call had an effect: {outcome.unknown}", "red")
            session.say(f"call {outcome.call_id}", "dim")
