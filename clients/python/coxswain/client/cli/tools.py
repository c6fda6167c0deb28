"""Commands about tools, and where they come from: tool, tool source."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coxswain.client.cli import tool_provider
from coxswain.client.cli.session import JsonOption, Session, add_row, confirm, one_line, session_of, table
from coxswain.client.cli.tool_usage import tool_usage
from coxswain.client.cli.tool_view import change_lines, source_details, source_table
from coxswain.client.paging import pages
from coxswain.client.results import EVERY_FIELD, id_of
from coxswain.client.tool_source_file import load_tool_source
from coxswain.client.values import to_value
from coxswain.orchestrator.v1.tool_pb2 import ListToolsRequest, TestToolRequest, TestToolResponse, ToolApproval
from coxswain.orchestrator.v1.tool_source_pb2 import (
    AcceptToolChangesRequest,
    CheckToolSourceRequest,
    CheckToolSourceResponse,
    CreateToolSourceRequest,
    DeleteToolSourceRequest,
    GetToolSourceRequest,
    ListToolSourcesRequest,
    RefreshToolSourceRequest,
    ToolSource,
    ToolSourceSpec,
    UpdateToolSourceRequest,
)

app = typer.Typer(no_args_is_help=True, help="List and try the tools of crews.", rich_markup_mode="markdown")
sources = typer.Typer(no_args_is_help=True, help="Say where tools come from.", rich_markup_mode="markdown")
app.add_typer(sources, name="source")
app.add_typer(tool_provider.app, name="provider")
app.command("usage")(tool_usage)

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="The source's name or id.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="YAML or JSON file of the source; see docs/tools.md.")
]
_EXIT_FAILED = 1


def _key(reference: str) -> dict[str, str]:
    known = id_of(reference)
    return {"id": known} if known else {"name": reference}


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
        request = ListToolsRequest(page_size=1000, source=source)
        found = list(pages(client.tools.ListTools, request, "tools"))
    if session.json:
        return session.print_json(found)
    made = table("name", "repeatable", "approval", "what")
    for tool in found:
        approval = ToolApproval.Name(tool.approval).removeprefix("TOOL_APPROVAL_").lower()
        what = f"cannot be used: {tool.problem}" if tool.problem else tool.description
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
    request = TestToolRequest(name=tool, allow_side_effects=allow_side_effects, request_id=request_id)
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
    return to_value(document, what).struct_value


def _show_outcome(session: Session, outcome: TestToolResponse) -> None:
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


@sources.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the source; with --file the one in the file counts.")] = "",
    file: FileOption = None,
    mcp: Annotated[str, typer.Option("--mcp", help="Address of an MCP server.")] = "",
    grpc: Annotated[str, typer.Option("--grpc", help="HOST:PORT of a tool provider.")] = "",
    openapi: Annotated[str, typer.Option("--openapi", help="Address of an OpenAPI document.")] = "",
    base_url: Annotated[str, typer.Option(help="Address that the operations of --openapi are below.")] = "",
    secret: Annotated[str, typer.Option(help="Name of the secret to send as a bearer token.")] = "",
    description: Annotated[str, typer.Option(help="What the source is for.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Store a source of tools, from a file or from options, and list its tools.

    Example: `coxswain tool source create billing --mcp https://mcp.example.com/mcp --secret tools/billing`
    """
    session = session_of(context, as_json)
    if file is not None:
        spec = load_tool_source(file)
    else:
        spec = _spec(name, mcp, grpc, openapi, base_url)
        spec.description = description
        if secret:
            spec.secret.secret_name = secret
    with session.client() as client:
        source = client.tool_sources.CreateToolSource(CreateToolSourceRequest(spec=spec)).source
    _report(session, source, "stored")


def _spec(name: str, mcp: str, grpc: str, openapi: str, base_url: str) -> ToolSourceSpec:
    if not name or sum(map(bool, (mcp, grpc, openapi))) != 1:
        raise typer.BadParameter("give --file, or a name and one of --mcp, --grpc and --openapi")
    spec = ToolSourceSpec(name=name)
    if mcp:
        spec.mcp.url = mcp
    elif grpc:
        spec.grpc.address = grpc
    else:
        spec.openapi.url, spec.openapi.base_url = openapi, base_url or openapi.rpartition("/")[0]
    return spec


@sources.command()
def get(context: typer.Context, source: SourceArgument, as_json: JsonOption = False) -> None:
    """Show a source: what is odd about it, what has changed, and the crews that were stored with other tools.

    Example: `coxswain tool source get billing`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.tool_sources.GetToolSource(GetToolSourceRequest(**_key(source)))
    if session.json:
        return session.print_json(found)
    session.out.print(source_details(found.source, list(found.stale_crews)))
    return None


@sources.command("list")
def list_sources(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the sources of the group by name.

    Example: `coxswain tool source list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = ListToolSourcesRequest(page_size=1000)
        found = list(pages(client.tool_sources.ListToolSources, request, "sources"))
    if session.json:
        return session.print_json(found)
    session.out.print(source_table(found) if found else "no sources")
    return None


@sources.command()
def update(
    context: typer.Context,
    source: SourceArgument,
    file: FileOption = None,
    description: Annotated[str | None, typer.Option(help="What the source is for.")] = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Switch its tools off, or on.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a source: to what a file says, or only what the options say.

    Example: `coxswain tool source update billing --disable`
    """
    session = session_of(context, as_json)
    if file is None and description is None and disabled is None:
        raise typer.BadParameter("nothing to change: give --file or at least one option")
    with session.client() as client:
        present = client.tool_sources.GetToolSource(GetToolSourceRequest(**_key(source))).source
        spec = present.spec
        if file is not None:
            spec = load_tool_source(file)
            if spec.name != present.spec.name:
                raise typer.BadParameter(
                    f"the file is of {spec.name!r}; the name of a source cannot change", param_hint="--file"
                )
        if description is not None:
            spec.description = description
        if disabled is not None:
            spec.disabled = disabled
        request = UpdateToolSourceRequest(
            id=present.id, spec=spec, update_mask=EVERY_FIELD, expected_revision=present.revision
        )
        updated = client.tool_sources.UpdateToolSource(request).source
    _report(session, updated, "updated")


@sources.command()
def delete(
    context: typer.Context,
    source: SourceArgument,
    force: Annotated[bool, typer.Option("--force", help="Delete it although crews use it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a source. Asks first.

    Example: `coxswain tool source delete billing`
    """
    session = session_of(context)
    with session.client() as client:
        found = client.tool_sources.GetToolSource(GetToolSourceRequest(**_key(source))).source
        confirm(session, f"the source {found.spec.name}", "delete", yes=yes)
        client.tool_sources.DeleteToolSource(DeleteToolSourceRequest(id=found.id, force=force))
    session.show(f"{found.spec.name} deleted")


@sources.command()
def refresh(context: typer.Context, source: SourceArgument, as_json: JsonOption = False) -> None:
    """List the tools of a source anew, and show what has changed.

    Example: `coxswain tool source refresh billing`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.tool_sources.RefreshToolSource(RefreshToolSourceRequest(**_key(source)))
    if session.json:
        return session.print_json(found)
    for line in change_lines(found.changes):
        session.show(line)
    _report(session, found.source, "listed")
    if found.stale_crews:
        session.say(f"stored with other tools: {', '.join(found.stale_crews)}")
    return None


@sources.command()
def check(context: typer.Context, source: SourceArgument, as_json: JsonOption = False) -> None:
    """Go the way to the tools of a source step by step. It exits with 1 when a step fails.

    Example: `coxswain tool source check billing`
    """
    session = session_of(context, as_json)
    is_good = True
    with session.client() as client:
        for step in client.tool_sources.CheckToolSource(CheckToolSourceRequest(**_key(source))):
            is_good = step.ok
            if session.json:
                session.print_json(step)
                continue
            name = CheckToolSourceResponse.Step.Name(step.step).removeprefix("STEP_").lower()
            session.show(f"{'ok    ' if step.ok else 'failed'} {name}: {one_line(step.message)}")
    if not is_good:
        raise typer.Exit(_EXIT_FAILED)


@sources.command()
def accept(
    context: typer.Context,
    source: SourceArgument,
    tools: Annotated[
        list[str] | None, typer.Argument(help="Tools whose changes are accepted; all without one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Accept the changes of a source's tools, so that crews that were stored before can call them. Asks first.

    Example: `coxswain tool source accept billing pay`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.tool_sources.GetToolSource(GetToolSourceRequest(**_key(source))).source
        chosen = [change for change in found.changes if not tools or change.tool in tools]
        for line in change_lines(chosen):
            session.say(line)
        confirm(session, f"{len(chosen)} changes of {found.spec.name}", "accept", yes=yes)
        request = AcceptToolChangesRequest(id=found.id, list_revision=found.list_revision, tools=tools)
        accepted = client.tool_sources.AcceptToolChanges(request).source
    _report(session, accepted, "accepted")


def _report(session: Session, source: ToolSource, what: str) -> None:
    if session.json:
        return session.print_json(source)
    session.show(f"{source.spec.name} {what}: {source.tool_count} tools")
    for warning in source.warnings:
        session.say(one_line(warning))
    if source.list_error:
        session.say(f"its tools could not be listed: {one_line(source.list_error)}", "red")
    if source.changes:
        session.say(f"{len(source.changes)} changes are not accepted: coxswain tool source get {source.spec.name}")
    return None
