"""What memories said before, and for how long a group keeps it: memory history, memory history-policy."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.namespaces import CrewOption, KindOption, MemoryIdOption, PrivateOption, namespace_of
from coxswain.client.cli.session import JsonOption, add_row, one_line, session_of, table
from coxswain.client.later import memory_file, record_version_pb2, timestamp_pb2
from coxswain.client.paging import pages


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(history)
    app.command("history-policy")(history_policy)


def history(
    context: typer.Context,
    record: Annotated[str, typer.Argument(help="Id of a memory, as `memory list` shows it.")],
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    kind: KindOption = "unified",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    private: PrivateOption = False,
    as_json: JsonOption = False,
) -> None:
    """List what a memory said before it was rewritten or deleted, newest first; --json has all of it.

    Example: `coxswain memory history 8f3c2a --crew brief`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        # One more than the limit shows whether there are more.
        request = record_version_pb2.ListRecordVersionsRequest(
            namespace=namespace_of(client, crew, memory_id, kind), id=record, page_size=min(limit + 1, 1000)
        )
        request.include_private = private
        found = list(pages(client.memory.ListRecordVersions, request, "versions", limit + 1))
        kept = client.memory.GetHistoryPolicy(record_version_pb2.GetHistoryPolicyRequest()).policy
    if len(found) > limit:
        del found[limit:]
        session.say("there are more: raise --limit", "yellow")
    if not kept.days:
        session.say("the group keeps no history: `coxswain memory history-policy --days 30` changes that", "yellow")
    if session.json:
        return session.print_json(found)
    made = table("from", "until", "then", "by", "memory")
    for version in found:
        end = record_version_pb2.VersionEnd.Name(version.end).removeprefix("VERSION_END_").lower()
        text = one_line(memory_file.content_of(version.record))
        add_row(made, _minute(version.begin_time), _minute(version.end_time), end, version.changed_by, text)
    session.out.print(made if found else "nothing is known of it before")
    return None


def history_policy(
    context: typer.Context,
    days: Annotated[int | None, typer.Option(min=0, help="Keep versions for so many days; 0 keeps none.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Follow the installation's default again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show for how many days the group keeps what its memories said before, or change it (needs the role admin).

    Example: `coxswain memory history-policy --days 90`
    """
    session = session_of(context, as_json)
    if days is not None and default:
        raise typer.BadParameter("give one of --days and --default", param_hint="--days")
    with session.client() as client:
        if days is not None:
            policy = client.memory.SetHistoryPolicy(record_version_pb2.SetHistoryPolicyRequest(days=days)).policy
        elif default:
            policy = client.memory.SetHistoryPolicy(
                record_version_pb2.SetHistoryPolicyRequest(use_default=record_version_pb2.UseDefaultHistory())
            ).policy
        else:
            policy = client.memory.GetHistoryPolicy(record_version_pb2.GetHistoryPolicyRequest()).policy
    if session.json:
        return session.print_json(policy)
    whose = " (the installation's default)" if policy.is_default else ""
    if policy.days:
        session.show(f"{policy.versions_per_record} versions of each memory, for {policy.days:,} days{whose}")
    else:
        session.show(f"no history is kept{whose}")
    return None


def _minute(moment: timestamp_pb2.Timestamp) -> str:
    return moment.ToDatetime().strftime("%Y-%m-%d %H:%M")
