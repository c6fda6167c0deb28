"""Commands about memory: list, graph, stats, clear, forget; searches and transfers are in modules of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli import memory_history, memory_records, memory_search, memory_transfer
from coxswain.client.cli.adoption import adopt
from coxswain.client.cli.backends import backend_app
from coxswain.client.cli.entity_tree import entity_tree
from coxswain.client.cli.indexes import index_app
from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.memory_documents import document_app
from coxswain.client.cli.namespaces import (
    CrewOption,
    KindOption,
    MemoryIdOption,
    PrivateOption,
    namespace_of,
    namespaces,
    warn_if_unknown,
)
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    add_row,
    confirm,
    one_line,
    session_of,
    table,
)
from coxswain.client.later import memory_file, memory_pb2, record_pb2
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

app = typer.Typer(no_args_is_help=True, help="Search and manage the memories of crews.")
app.add_typer(backend_app, name="backend")
app.add_typer(index_app, name="index")
app.add_typer(document_app, name="document")
app.command()(adopt)
app.command()(memory_search.search)
app.command()(memory_records.save)
app.command()(memory_records.delete)


@app.command("list")
def list_records(
    context: typer.Context,
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    kind: KindOption = "unified",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    private: PrivateOption = False,
    as_json: JsonOption = False,
) -> None:
    """List memories, newest first. Their texts are shown on one line; --json has all.

    Example: `coxswain memory list --crew brief --limit 5`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        # One more than the limit shows whether there are more.
        request = memory_pb2.ListRecordsRequest(
            namespace=namespace_of(client, crew, memory_id, kind), page_size=min(limit + 1, 1000)
        )
        if private:
            request.filter.include_private = True
        records = list(pages(client.memory.ListRecords, request, "records", limit + 1))
        if not records and not session.json:
            warn_if_unknown(session, client, request.namespace)
    if len(records) > limit:
        del records[limit:]
        session.say("there are more: raise --limit", "yellow")
    if session.json:
        return session.print_json(records)
    made = Listing("created", "memory", "id")
    for record in records:
        add_row(made, When(record.create_time), one_line(memory_file.content_of(record)), record.id)
    session.out.print(made if records else "nothing remembered")
    return None


@app.command()
def graph(
    context: typer.Context,
    start: Annotated[
        str,
        typer.Argument(help="Exact name of an entity; `memory search --kind entity` finds names."),
    ],
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    relations: Annotated[
        list[str] | None, typer.Option("--relation", help="Follow only relations of this name; repeatable.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, max=8, help="Largest number of steps from the start.")] = 2,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Largest number of entities.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show the entities that an entity is related to.

    An entity that is reached more than once is described once, and marked "again" after that.

    Example: `coxswain memory graph "Ann Keeper" --crew brief --relation knows --depth 3`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = memory_pb2.TraverseEntitiesRequest(
            namespace=namespace_of(client, crew, memory_id, "entity"),
            start=start,
            relations=relations or (),
            max_depth=depth,
            limit=limit,
        )
        found = client.memory.TraverseEntities(request)
    if session.json:
        return session.print_json(found)
    session.out.print(entity_tree(found))
    if found.truncated:
        session.say(f"there are more entities; raise --limit (now {limit})", "yellow")
    return None


@app.command()
def stats(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the namespaces of the group: crew, kind, embedding model and size; scopes of unified ones.

    A crew's name is the one its memories were last saved under.

    Example: `coxswain memory stats`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        infos = list(namespaces(client))
        if session.json:
            return session.print_json(infos)
        made = Listing("crew", "memory id", "kind", ">records", "embedding", ">dimension", "scopes")
        for info in infos:
            add_row(
                made,
                info.crew_name,
                info.namespace.memory_id,
                memory_file.kind_name(info.namespace.kind),
                f"{info.record_count:,}",
                info.embedding_model,
                info.embedding_dimension,
                ", ".join(_scopes(client, info)),
            )
    session.out.print(made if infos else "nothing remembered")
    return None


def _scopes(client: Client, info: memory_pb2.NamespaceInfo) -> list[str]:
    if info.namespace.kind != record_pb2.MemoryKind.MEMORY_KIND_UNIFIED:
        return []
    return list(client.memory.GetScope(memory_pb2.GetScopeRequest(namespace=info.namespace)).scope.child_scopes)


@app.command()
def clear(
    context: typer.Context,
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    kind: KindOption = "unified",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove all memories of one kind of a crew, private ones too. Asks first.

    Example: `coxswain memory clear --crew brief`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        namespace = namespace_of(client, crew, memory_id, kind)
        # Private ones go too, so they count.
        counted = memory_pb2.RecordFilter(include_private=namespace.kind == record_pb2.MemoryKind.MEMORY_KIND_UNIFIED)
        found = client.memory.CountRecords(memory_pb2.CountRecordsRequest(namespace=namespace, filter=counted))
        if found.count:
            number = f"{'at least ' if found.at_least else ''}{found.count:,}"
            whose = crew or namespace.memory_id or "the group"
            confirm(session, f"{number} {memory_file.kind_name(namespace.kind)} memories of {whose}", "remove", yes=yes)
        elif not session.json:
            warn_if_unknown(session, client, namespace)
        deleted = client.memory.ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=namespace)).deleted
    if session.json:
        return session.print_json({"deleted": deleted})
    session.show(f"{deleted:,} removed")
    return None


@app.command()
def forget(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="Whom: issuer and subject, as `coxswain whoami` shows them.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what the memories of all crews hold of a person. Asks first; needs the role admin.

    What others have saved too stays, without the person. Fails when some may be left in a memory: see its problem.

    Example: `coxswain memory forget "dev|ann" --dry-run`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.memory.ForgetSubject(memory_pb2.ForgetSubjectRequest(subject=subject, dry_run=True))
        versions = sum(found.removed_versions for found in response.namespaces)
        if not dry_run and (response.removed or response.kept or versions):
            what = f"{response.removed:,} memories of {subject} and {versions:,} former versions"
            confirm(session, what, "remove", yes=yes)
            response = client.memory.ForgetSubject(memory_pb2.ForgetSubjectRequest(subject=subject))
    if session.json:
        session.print_json(response)
    else:
        removed = ">to remove" if dry_run else ">removed"
        made = table("crew", "memory id", "kind", removed, ">kept without them", ">former versions")
        for found in response.namespaces:
            kind = memory_file.kind_name(found.namespace.kind)
            figures = (f"{number:,}" for number in (found.removed, found.kept, found.removed_versions))
            add_row(made, found.crew_name, found.namespace.memory_id, kind, *figures)
        session.out.print(made if response.namespaces else "nothing of them is remembered")
    failed = [found for found in response.namespaces if found.problem]
    for found in failed:
        memory_id, kind = found.namespace.memory_id, memory_file.kind_name(found.namespace.kind)
        session.fail(f"some may be left in {memory_id} ({kind}): {one_line(found.problem)}")
    if failed:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


memory_history.register(app)
memory_transfer.register(app)
