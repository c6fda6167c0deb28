"""Commands about changes of tools that nobody has accepted: tool changes, tool source accept."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.session import JsonOption, Session, confirm, harmless, plain, session_of, styled
from coxswain.client.cli.tool_view import change_line
from coxswain.client.later import results, struct_pb2, tool_source_pb2
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="The source's name or id.")]
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def source_key(reference: str) -> dict[str, str]:
    """The key of a request for a source by its name or id."""
    known = results.id_of(reference)
    return {"id": known} if known else {"name": reference}


def changes(
    context: typer.Context,
    source: SourceArgument,
    tools: Annotated[list[str] | None, typer.Argument(help="Only these tools; all without one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how tools of a source differ from what was accepted: description and schemas, old and new.

    Example: `coxswain tool changes billing pay`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = _differences(client, source, tools)
    if session.json:
        return session.print_json(found)
    show_differences(session, found)
    if not found:
        session.say("no changes" if not tools else f"no changes of {', '.join(tools)}")
    else:
        session.say(f"an admin accepts them with: coxswain tool source accept {source}")
    return None


def _differences(client: Client, source: str, tools: list[str] | None) -> list[tool_source_pb2.ToolDifference]:
    request = tool_source_pb2.ListToolChangesRequest(**source_key(source), page_size=1000)
    found = pages(client.tool_sources.ListToolChanges, request, "changes")
    names = {name.rpartition("/")[2] for name in tools or ()}
    return [one for one in found if not tools or one.change.tool in names]


def show_differences(session: Session, differences: Iterable[tool_source_pb2.ToolDifference]) -> None:
    """Print what was and what is, as a patch."""
    for difference in differences:
        session.out.print(styled(change_line(difference.change), "bold"))
        for line in difference_lines(difference):
            session.out.print(styled(harmless(line), _STYLES.get(line[:1], "")), soft_wrap=True)


def difference_lines(difference: tool_source_pb2.ToolDifference) -> Iterator[str]:
    """The lines of a change: those that went begin with -, those that came with +."""
    kind = difference.change.kind
    if kind == tool_source_pb2.ToolChange.KIND_CHANGED and not difference.HasField("before"):
        yield "  (what it was is not known any more; this is what it is)"
    before = _lines(difference.before) if difference.HasField("before") else []
    after = _lines(difference.after) if difference.HasField("after") else []
    patch = difflib.unified_diff(before, after, n=3, lineterm="")
    # The first two lines name files.
    yield from (line for index, line in enumerate(patch) if index > 1)


def _lines(tool: tool_source_pb2.ToolVersion) -> list[str]:
    lines = ["description:", *(f"  {line}" for line in tool.description.splitlines())]
    if tool.call:
        lines += [f"call: {tool.call}"]
    lines += ["arguments_schema:", *_schema(tool.arguments_schema)]
    if tool.HasField("output_schema"):
        lines += ["output_schema:", *_schema(tool.output_schema)]
    if tool.HasField("idempotent_hint"):
        lines += [f"idempotent_hint: {'yes' if tool.idempotent_hint else 'no'}"]
    return lines


def _schema(schema: struct_pb2.Struct) -> list[str]:
    text = json.dumps(plain(schema), indent=2, sort_keys=True, ensure_ascii=False)
    return [f"  {line}" for line in text.splitlines()]


def accept(
    context: typer.Context,
    source: SourceArgument,
    tools: Annotated[
        list[str] | None, typer.Argument(help="Tools whose changes are accepted; all without one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Accept the changes of a source's tools, so that crews can use them. Shows them and asks first.

    Only an admin may. Example: `coxswain tool source accept billing pay`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found: tool_source_pb2.ToolSource = client.tool_sources.GetToolSource(
            tool_source_pb2.GetToolSourceRequest(**source_key(source))
        ).source
        names = [name.rpartition("/")[2] for name in tools or ()]
        chosen = _differences(client, source, names or None)
        if not session.json:
            show_differences(session, chosen)
        if chosen:
            confirm(session, f"{len(chosen)} changes of {found.spec.name}", "accept", yes=yes)
        accepted = found
        # One that could not be listed yet has no list to accept.
        if found.list_revision:
            request = tool_source_pb2.AcceptToolChangesRequest(
                id=found.id, list_revision=found.list_revision, tools=names
            )
            accepted = client.tool_sources.AcceptToolChanges(request).source
    if session.json:
        return session.print_json(accepted)
    done = f"{len(chosen)} changes accepted" if chosen else "nothing to accept"
    left = f"; {len(accepted.changes)} left" if accepted.changes else ""
    session.show(f"{accepted.spec.name}: {done}{left}")
    return None
