"""Commands about memory: search, list, graph, stats, clear, export, import."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer
from google.protobuf.json_format import MessageToDict

from coxswain.client.blocking import Client
from coxswain.client.cli.backends import backend_app, index_app
from coxswain.client.cli.entity_tree import entity_tree
from coxswain.client.cli.session import (
    JsonOption,
    add_row,
    confirm,
    progress_bar,
    session_of,
    table,
)
from coxswain.client.memory_file import (
    Header,
    content_of,
    crew_id_request,
    kind_from,
    kind_name,
    read_header,
    read_records,
)
from coxswain.client.paging import pages
from coxswain.memory.v1.memory_service_pb2 import (
    ClearRequest,
    CountRequest,
    GetScopeRequest,
    ListNamespacesRequest,
    ListRequest,
    Namespace,
    NamespaceInfo,
    SaveRequest,
    SearchRequest,
    TraverseEntitiesRequest,
)
from coxswain.memory.v1.record_pb2 import MemoryKind, Record

app = typer.Typer(no_args_is_help=True, help="Search and keep what crews remember.", rich_markup_mode="markdown")
app.add_typer(backend_app, name="backend")
app.add_typer(index_app, name="index")

_BATCH = 200

CrewOption = Annotated[str, typer.Option("--crew", help="The crew, by name or id of its document.")]
CrewIdOption = Annotated[
    str, typer.Option("--crew-id", help="The id its memories lie under, as `memory stats` lists it.")
]
KindOption = Annotated[str, typer.Option("--kind", help="unified, short_term, long_term, entity or document.")]


def _namespace(client: Client, crew: str, crew_id: str, kind: str) -> Namespace:
    """The namespace a command means: named, or the only one there is of that kind."""
    number = kind_from(kind)
    if crew and crew_id:
        raise typer.BadParameter("give one of --crew and --crew-id", param_hint="--crew")
    if number == MemoryKind.MEMORY_KIND_DOCUMENT:
        return Namespace(kind=number)
    if crew:
        request = crew_id_request(client.get_crew(crew).spec)
        return Namespace(crew_id=client.memory.DeriveCrewId(request).crew_id, kind=number)
    if crew_id:
        return Namespace(crew_id=crew_id, kind=number)
    found = [info.namespace for info in _namespaces(client) if info.namespace.kind == number]
    if len(found) == 1:
        return found[0]
    if not found:
        raise typer.BadParameter(f"the group has no {kind_name(number)} memories yet", param_hint="--kind")
    ids = ", ".join(namespace.crew_id for namespace in found[:10])
    raise typer.BadParameter(
        f"several crews have memories: {ids}; choose one, or name a crew with --crew", param_hint="--crew-id"
    )


def _namespaces(client: Client) -> Iterator[NamespaceInfo]:
    return pages(client.memory.ListNamespaces, ListNamespacesRequest(page_size=1000), "namespaces")


@app.command()
def search(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What to look for, in any words.")],
    crew: CrewOption = "",
    crew_id: CrewIdOption = "",
    kind: KindOption = "unified",
    limit: Annotated[int, typer.Option(min=1, max=10000, help="How many at most.")] = 10,
    min_score: Annotated[float | None, typer.Option(min=-1, max=1, help="Least similarity.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the memories nearest in meaning to a text, best first.

    Example: `coxswain memory search "who kept the light burning" --crew brief --limit 3`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = SearchRequest(namespace=_namespace(client, crew, crew_id, kind), text=text, limit=limit)
        if min_score is not None:
            request.min_score = min_score
        results = client.memory.Search(request).results
    if session.json:
        return session.print_json(list(results))
    made = table(">score", "memory", "id")
    for result in results:
        add_row(made, f"{result.score:.3f}", content_of(result.record), result.record.id)
    session.out.print(made if results else "nothing found")
    return None


@app.command("list")
def list_records(
    context: typer.Context,
    crew: CrewOption = "",
    crew_id: CrewIdOption = "",
    kind: KindOption = "unified",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List memories, newest first.

    Example: `coxswain memory list --crew brief --limit 5`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = ListRequest(namespace=_namespace(client, crew, crew_id, kind), page_size=min(limit, 1000))
        records = list(pages(client.memory.List, request, "records", limit))
    if session.json:
        return session.print_json(records)
    made = table("made", "memory", "id")
    for record in records:
        add_row(made, record.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M"), content_of(record), record.id)
    session.out.print(made if records else "nothing remembered")
    return None


@app.command()
def graph(
    context: typer.Context,
    start: Annotated[
        str,
        typer.Argument(help="Name of an entity, exactly as it is kept; `memory search --kind entity` finds names."),
    ],
    crew: CrewOption = "",
    crew_id: CrewIdOption = "",
    relations: Annotated[
        list[str] | None, typer.Option("--relation", help="Follow only relations of this name; repeatable.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, max=8, help="Steps from the start at most.")] = 2,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entities at most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Follow the relationships of an entity: whom and what it is connected with.

    An entity that is come by more than once is told of once, and marked "again" from then on.

    Example: `coxswain memory graph "Ann Keeper" --crew brief --relation knows --depth 3`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = TraverseEntitiesRequest(
            namespace=_namespace(client, crew, crew_id, "entity"),
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
        session.say(f"there is more: this stops at --limit {limit}", "yellow")
    return None


@app.command()
def stats(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the group's namespaces: crew, kind, embedding model and size; scopes of unified ones.

    Example: `coxswain memory stats`
    """
    session = session_of(context, as_json)
    made = table("crew id", "kind", ">records", "embedding", ">dimension", "scopes")
    with session.client() as client:
        infos = list(_namespaces(client))
        for info in infos:
            scopes: list[str] = []
            if info.namespace.kind == MemoryKind.MEMORY_KIND_UNIFIED:
                scopes = list(client.memory.GetScope(GetScopeRequest(namespace=info.namespace)).scope.child_scopes)
            add_row(
                made,
                info.namespace.crew_id,
                kind_name(info.namespace.kind),
                f"{info.record_count:,}",
                info.embedding_model,
                info.embedding_dimension,
                ", ".join(scopes),
            )
    if session.json:
        return session.print_json(infos)
    session.out.print(made if infos else "nothing remembered")
    return None


@app.command()
def clear(
    context: typer.Context,
    crew: CrewOption = "",
    crew_id: CrewIdOption = "",
    kind: KindOption = "unified",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove every memory of a crew and a kind. Asks first.

    Example: `coxswain memory clear --crew brief`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        namespace = _namespace(client, crew, crew_id, kind)
        count = client.memory.Count(CountRequest(namespace=namespace)).count
        what = f"{count:,} {kind_name(namespace.kind)} memories of {namespace.crew_id or 'the group'}"
        confirm(session, what, "remove", yes=yes)
        deleted = client.memory.Clear(ClearRequest(namespace=namespace)).deleted
    if session.json:
        return session.print_json({"deleted": deleted})
    session.show(f"{deleted:,} removed")
    return None


@app.command("export")
def export_records(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write, JSON lines; - for standard output.")],
    crew: CrewOption = "",
    crew_id: CrewIdOption = "",
    kind: KindOption = "unified",
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Keep the vectors; without them an import embeds anew.")
    ] = False,
) -> None:
    """Write a crew's memories as JSON lines.

    The first line tells where they come from. Without --embeddings they can be imported under another embedding model.

    Example: `coxswain memory export memories.jsonl --crew brief`
    """
    session = session_of(context)
    with session.client() as client:
        namespace = _namespace(client, crew, crew_id, kind)
        total = client.memory.Count(CountRequest(namespace=namespace)).count
        origin = next((info for info in _namespaces(client) if info.namespace == namespace), NamespaceInfo())
        header = Header(namespace, origin.embedding_model, embeddings=embeddings)
        request = ListRequest(namespace=namespace, page_size=_BATCH, include_embeddings=embeddings)
        with _written(file) as sink, progress_bar(session.err) as bar:
            task = bar.add_task("exported", total=total)
            sink.write(header.line() + "\n")
            for record in pages(client.memory.List, request, "records"):
                line = json.dumps(MessageToDict(record, preserving_proto_field_name=True), ensure_ascii=False)
                sink.write(line + "\n")
                bar.advance(task)
            written = bar.tasks[0].completed
    session.say(f"{int(written):,} exported to {file}")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """A file that appears whole or not at all, or standard output."""
    if str(path) == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as sink:
            yield sink
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@app.command("import")
def import_records(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="JSON lines as `memory export` writes them.", exists=True, dir_okay=False)
    ],
    crew: CrewOption = "",
    crew_id: CrewIdOption = "",
    reembed: Annotated[
        bool, typer.Option("--reembed", help="Embed the texts anew instead of taking the file's vectors.")
    ] = False,
    embedding_model: Annotated[str, typer.Option(help="Model to embed with; the namespace's own by default.")] = "",
) -> None:
    """Read memories written by `memory export`, by default into the crew they came from.

    Records keep their ids: importing a file twice changes nothing, and an import that broke off is simply repeated.

    Example: `coxswain memory import memories.jsonl --crew brief --reembed`
    """
    session = session_of(context)
    with session.client() as client, file.open(encoding="utf-8") as source:
        header = read_header(file, source)
        namespace = header.namespace
        if crew or crew_id:
            namespace = _namespace(client, crew, crew_id, kind_name(header.namespace.kind))
        vectors = header.embeddings and not reembed
        chosen = embedding_model or (header.embedding_model if vectors else "")
        with progress_bar(session.err) as bar:
            size = file.stat().st_size
            task = bar.add_task("imported", total=size)
            done = 0
            for batch, position in _batches(read_records(file, source, keep_vectors=vectors)):
                client.memory.Save(SaveRequest(namespace=namespace, records=batch, embedding_model=chosen))
                done += len(batch)
                bar.update(task, completed=position, description=f"imported {done:,}")
            bar.update(task, completed=size)
    session.say(f"{done:,} imported into {namespace.crew_id or 'the group'}, {kind_name(namespace.kind)}")


def _batches(records: Iterator[tuple[Record, int]]) -> Iterator[tuple[list[Record], int]]:
    """Records in batches that fit a message, each with the position reached in the file."""
    batch: list[Record] = []
    size, position = 0, 0
    for record, end in records:
        length = record.ByteSize()
        if batch and (len(batch) == _BATCH or size + length > 2 * 1024 * 1024):
            yield batch, position
            batch, size = [], 0
        batch.append(record)
        size, position = size + length, end
    if batch:
        yield batch, position
