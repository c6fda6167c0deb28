"""Commands about single memories: memory save, delete."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coxswain.client.cli.namespaces import CrewOption, KindOption, MemoryIdOption, namespace_of
from coxswain.client.cli.session import EXIT_NOT_SUCCEEDED, JsonOption, confirm, session_of
from coxswain.client.later import memory_pb2, record_pb2


def save(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What to remember; - reads standard input.")],
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    scope: Annotated[str, typer.Option(help="Where it belongs, such as /crew/brief.")] = "",
    categories: Annotated[list[str] | None, typer.Option("--category", help="What it is about. Repeatable.")] = None,
    importance: Annotated[float, typer.Option(min=0, max=1, help="Between 0 and 1; 0 means the default.")] = 0.0,
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "",
    private: Annotated[bool, typer.Option("--private", help="For yourself alone: to others it is not there.")] = False,
    id: Annotated[  # noqa: A002 - what people see
        str, typer.Option("--id", help="Id of your own; a memory of that id is replaced.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Save a memory where a crew finds it, and print its id.

    Example: `coxswain memory save "The keeper trims the wick at dusk." --crew brief`
    """
    session = session_of(context, as_json)
    record = record_pb2.UnifiedRecord(
        content=sys.stdin.read() if text == "-" else text,
        scope=scope,
        categories=categories or (),
        importance=importance,
        source=source,
        private=private,
    )
    with session.client() as client:
        namespace = namespace_of(client, crew, memory_id, "unified")
        name = client.get_crew(crew).spec.name if crew else ""
        request = memory_pb2.SaveRecordsRequest(
            namespace=namespace, records=[record_pb2.Record(id=id, unified=record)], crew_name=name
        )
        saved = client.memory.SaveRecords(request)
    if session.json:
        return session.print_json(saved)
    return session.show("\n".join(saved.ids))


def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, as `coxswain memory list` shows them.")],
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    kind: KindOption = "unified",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete memories by their ids. Asks first. Exit code 1 means that none of them was there.

    Example: `coxswain memory delete 01a20694-1f86-7c54-8594-1ba930202397 --crew brief --yes`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        namespace = namespace_of(client, crew, memory_id, kind)
        what = f"memory {ids[0]}" if len(ids) == 1 else f"{len(ids)} memories"
        confirm(session, what, "delete", yes=yes)
        answer = client.memory.DeleteRecords(memory_pb2.DeleteRecordsRequest(namespace=namespace, ids=ids))
    if session.json:
        session.print_json(answer)
    else:
        session.show(f"{answer.deleted:,} deleted")
    if not answer.deleted:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)
