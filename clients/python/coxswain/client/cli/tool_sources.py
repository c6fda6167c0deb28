"""Commands about where tools come from: tool source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coxswain.client.cli import tool_changes
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, Session, confirm, one_line, session_of
from coxswain.client.cli.tool_changes import SourceArgument, source_key
from coxswain.client.cli.tool_view import change_line, source_details, source_table
from coxswain.client.later import results, tool_source_file, tool_source_pb2
from coxswain.client.paging import pages

app = typer.Typer(cls=ListingGroup, help="Say where tools come from.")

FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="YAML or JSON file of the source; see docs/tools.md.")
]
_EXIT_FAILED = 1


NameArgument = Annotated[
    str, typer.Argument(metavar="[NAME]", help="Name of the source; with --file the one in the file counts.")
]
McpOption = Annotated[str, typer.Option("--mcp", help="Address of an MCP server.")]
GrpcOption = Annotated[str, typer.Option("--grpc", help="HOST:PORT of a tool provider.")]
A2AOption = Annotated[str, typer.Option("--a2a", help="An agent of another system: address of its card, or HOST:PORT.")]
TenantOption = Annotated[str | None, typer.Option(help="With --a2a: the tenant that the agent is called by.")]
PlaintextOption = Annotated[
    bool | None,
    typer.Option("--plaintext/--tls", help="With --grpc or --a2a: without TLS, in networks that the operator allows."),
]
OpenApiOption = Annotated[str, typer.Option("--openapi", help="Address of an OpenAPI document.")]
BaseUrlOption = Annotated[str, typer.Option(help="Address that the operations of --openapi are below.")]
SecretOption = Annotated[
    str | None,
    typer.Option(help='Name of the secret to send as a bearer token; see `coxswain secret put`. "" means none.'),
]
DescriptionOption = Annotated[str | None, typer.Option(help="What the source is for.")]


@app.command()
def create(
    context: typer.Context,
    name: NameArgument = "",
    file: FileOption = None,
    mcp: McpOption = "",
    grpc: GrpcOption = "",
    a2a: A2AOption = "",
    tenant: TenantOption = None,
    plaintext: PlaintextOption = None,
    openapi: OpenApiOption = "",
    base_url: BaseUrlOption = "",
    secret: SecretOption = None,
    description: DescriptionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a source of tools, from a file or from options, and list its tools.

    It exits with 1 when the source is stored but cannot be used yet, and says why.

    Examples:

        coxswain tool source create billing --mcp https://mcp.example.com/mcp --secret tools/billing

        coxswain tool source create desk --grpc 127.0.0.1:50061 --plaintext

        coxswain tool source create partner --a2a agents.example.com:443 --secret tools/partner
    """
    session = session_of(context, as_json)
    options = _given(mcp, grpc, a2a, tenant, plaintext, openapi, base_url, secret, description)
    if file is not None and options:
        raise typer.BadParameter(f"has all of it: leave out {', '.join(options)}", param_hint="--file")
    document = None
    if file is not None:
        document = tool_source_file.read_tool_source(file)
        spec = document.spec
        if name and name != spec.name:
            raise typer.BadParameter(f"the file is of {spec.name!r}, not of {name!r}", param_hint="NAME")
    else:
        if not name or sum(map(bool, (mcp, grpc, a2a, openapi))) != 1:
            raise typer.BadParameter(
                "give --file, or a name and one of --mcp, --grpc, --a2a and --openapi", param_hint="NAME"
            )
        spec = tool_source_pb2.ToolSourceSpec(name=name)
        _change(spec, mcp, grpc, a2a, tenant, plaintext, openapi, base_url, secret, description)
    with session.client() as client, tool_source_file.naming_lines(document, file):
        source = client.tool_sources.CreateToolSource(tool_source_pb2.CreateToolSourceRequest(spec=spec)).source
    _report(session, source, "stored", must_work=True)


def _given(
    mcp: str,
    grpc: str,
    a2a: str,
    tenant: str | None,
    plaintext: bool | None,
    openapi: str,
    base_url: str,
    secret: str | None,
    description: str | None,
) -> list[str]:
    """The options that were given, as people type them."""
    values = {
        "--mcp": mcp or None,
        "--grpc": grpc or None,
        "--a2a": a2a or None,
        "--tenant": tenant,
        "--plaintext": plaintext,
        "--openapi": openapi or None,
        "--base-url": base_url or None,
        "--secret": secret,
        "--description": description,
    }
    return [option for option, value in values.items() if value is not None]


def _change(
    spec: tool_source_pb2.ToolSourceSpec,
    mcp: str,
    grpc: str,
    a2a: str,
    tenant: str | None,
    plaintext: bool | None,
    openapi: str,
    base_url: str,
    secret: str | None,
    description: str | None,
) -> None:
    """Set what the options say; what they leave out stays."""
    if mcp:
        spec.mcp.url = mcp
    if grpc:
        spec.grpc.address = grpc
    if "://" in a2a:
        spec.a2a.card_url = a2a
    elif a2a:
        spec.a2a.address = a2a
    kind = spec.WhichOneof("kind")
    if tenant is not None:
        if kind != "a2a":
            raise typer.BadParameter("goes with --a2a", param_hint="--tenant")
        spec.a2a.tenant = tenant
    if plaintext is not None:
        if kind not in {"grpc", "a2a"}:
            raise typer.BadParameter("goes with --grpc or --a2a", param_hint="--plaintext")
        getattr(spec, kind).plaintext = plaintext
    if openapi:
        spec.openapi.url, spec.openapi.base_url = openapi, base_url or openapi.rpartition("/")[0]
    elif base_url:
        part = spec.WhichOneof("kind")
        if part not in {"openapi", "http"}:
            raise typer.BadParameter("goes with --openapi", param_hint="--base-url")
        getattr(spec, part).base_url = base_url
    if secret:
        spec.secret.secret_name = secret
    elif secret is not None:
        spec.ClearField("auth")
    if description is not None:
        spec.description = description


@app.command()
def get(context: typer.Context, source: SourceArgument, as_json: JsonOption = False) -> None:
    """Show a source: what is odd about it, what has changed, and the crews that were stored with other tools.

    Example: `coxswain tool source get billing`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.tool_sources.GetToolSource(tool_source_pb2.GetToolSourceRequest(**source_key(source)))
    if session.json:
        return session.print_json(found)
    session.out.print(source_details(session, found.source, list(found.stale_crews)))
    return None


@app.command("list")
def list_sources(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the sources of the group by name.

    Example: `coxswain tool source list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = tool_source_pb2.ListToolSourcesRequest(page_size=1000)
        found = list(pages(client.tool_sources.ListToolSources, request, "sources"))
    if session.json:
        return session.print_json(found)
    session.out.print(source_table(session, found) if found else "no sources")
    return None


@app.command()
def update(
    context: typer.Context,
    source: SourceArgument,
    file: FileOption = None,
    mcp: McpOption = "",
    grpc: GrpcOption = "",
    a2a: A2AOption = "",
    tenant: TenantOption = None,
    plaintext: PlaintextOption = None,
    openapi: OpenApiOption = "",
    base_url: BaseUrlOption = "",
    secret: SecretOption = None,
    description: DescriptionOption = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Switch its tools off, or on.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a source: to what a file says, or only what the options say.

    Another address or secret lists its tools anew. It exits with 1 when they cannot be listed.

    Examples:

        coxswain tool source update billing --secret tools/billing

        coxswain tool source update billing --disable
    """
    session = session_of(context, as_json)
    options = _given(mcp, grpc, a2a, tenant, plaintext, openapi, base_url, secret, description)
    if file is None and disabled is None and not options:
        raise typer.BadParameter("nothing to change: give --file or at least one option", param_hint="SOURCE")
    if file is not None and options:
        raise typer.BadParameter(f"has all of it: leave out {', '.join(options)}", param_hint="--file")
    if sum(map(bool, (mcp, grpc, a2a, openapi))) > 1:
        raise typer.BadParameter("give one of --mcp, --grpc, --a2a and --openapi", param_hint="SOURCE")
    document = None if file is None else tool_source_file.read_tool_source(file)
    with session.client() as client:
        present = client.tool_sources.GetToolSource(tool_source_pb2.GetToolSourceRequest(**source_key(source))).source
        spec = present.spec
        if document is not None:
            spec = document.spec
            if spec.name != present.spec.name:
                raise typer.BadParameter(
                    f"the file is of {spec.name!r}; the name of a source cannot change", param_hint="--file"
                )
        _change(spec, mcp, grpc, a2a, tenant, plaintext, openapi, base_url, secret, description)
        if disabled is not None:
            spec.disabled = disabled
        request = tool_source_pb2.UpdateToolSourceRequest(
            id=present.id, spec=spec, update_mask=results.EVERY_FIELD, expected_revision=present.revision
        )
        with tool_source_file.naming_lines(document, file):
            updated = client.tool_sources.UpdateToolSource(request).source
    _report(session, updated, "updated", must_work=not updated.spec.disabled)


@app.command()
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
        found = client.tool_sources.GetToolSource(tool_source_pb2.GetToolSourceRequest(**source_key(source))).source
        confirm(session, f"the source {found.spec.name}", "delete", yes=yes)
        client.tool_sources.DeleteToolSource(tool_source_pb2.DeleteToolSourceRequest(id=found.id, force=force))
    session.show(f"{found.spec.name} deleted")


@app.command()
def refresh(context: typer.Context, source: SourceArgument, as_json: JsonOption = False) -> None:
    """List the tools of a source anew, and show what has changed.

    Example: `coxswain tool source refresh billing`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.tool_sources.RefreshToolSource(tool_source_pb2.RefreshToolSourceRequest(**source_key(source)))
    if session.json:
        return session.print_json(found)
    for change in found.changes:
        session.show(change_line(change))
    _report(session, found.source, "listed")
    if found.stale_crews:
        session.say(f"stored with other tools: {', '.join(found.stale_crews)}")
    return None


@app.command()
def check(context: typer.Context, source: SourceArgument, as_json: JsonOption = False) -> None:
    """Go the way to the tools of a source step by step. It exits with 1 when a step fails.

    Example: `coxswain tool source check billing`
    """
    session = session_of(context, as_json)
    is_good = True
    with session.client() as client:
        for step in client.tool_sources.CheckToolSource(tool_source_pb2.CheckToolSourceRequest(**source_key(source))):
            is_good = step.ok
            if session.json:
                session.print_json(step)
                continue
            name = tool_source_pb2.CheckToolSourceResponse.Step.Name(step.step).removeprefix("STEP_").lower()
            session.show(f"{'ok    ' if step.ok else 'failed'} {name}: {one_line(session.own(step.message))}")
    if not is_good:
        raise typer.Exit(_EXIT_FAILED)


app.command("accept")(tool_changes.accept)


def _report(session: Session, source: tool_source_pb2.ToolSource, what: str, *, must_work: bool = False) -> None:
    """Say how a source is now. Raises typer.Exit when it `must_work` and does not."""
    problem = source.problem or source.list_error
    if session.json:
        session.print_json(source)
    elif must_work and problem:
        session.show(f"{source.spec.name} {what}, but not usable yet")
    else:
        session.show(f"{source.spec.name} {what}: {source.tool_count} tools")
    if not session.json:
        for warning in source.warnings:
            session.say(f"warning: {one_line(session.own(warning))}", "yellow")
        if problem:
            session.say(one_line(session.own(problem)), "red")
        if source.changes:
            session.say(f"{len(source.changes)} changes are not accepted: coxswain tool changes {source.spec.name}")
    if must_work and problem:
        raise typer.Exit(_EXIT_FAILED)
