"""Commands about the group's vector search indexes: memory index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from coxswain.client.cli.backends import YesOption, follow_steps, of_backend
from coxswain.client.cli.listing import Listing
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, Session, add_row, confirm, session_of
from coxswain.client.later import memory_file, vector_index_pb2

index_app = typer.Typer(cls=ListingGroup, help="The group's vector search indexes.")

IndexArgument = Annotated[str, typer.Argument(metavar="INDEX", help="Full name: catalog, schema and index.")]


@index_app.command("list")
def list_indexes(
    context: typer.Context,
    backend: Annotated[str, typer.Option(help="Only the indexes of this backend, by name or id.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the indexes registered to the group, with their state.

    Example: `coxswain memory index list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = vector_index_pb2.ListIndexesRequest(**of_backend(backend) if backend else {})
        found = list(client.vector_indexes.ListIndexes(request).indexes)
    if session.json:
        return session.print_json(found)
    if found:
        _show_indexes(session, found)
    else:
        session.show("no indexes: only backends in a workspace have them, see `coxswain memory backend create --help`")
    return None


@index_app.command()
def describe(context: typer.Context, index: IndexArgument, as_json: JsonOption = False) -> None:
    """Show the state of an index.

    Example: `coxswain memory index describe main.crews.unified`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.vector_indexes.DescribeIndex(vector_index_pb2.DescribeIndexRequest(index=index)).index
    if session.json:
        return session.print_json(found)
    _show_indexes(session, [found])
    return None


def _show_indexes(session: Session, indexes: Iterable[vector_index_pb2.IndexInfo]) -> None:
    made = Listing("name", "kind", "state", ">dimension", "shared", "endpoint", "message")
    for info in indexes:
        state = (
            vector_index_pb2.ResourceState.Name(info.state).removeprefix("RESOURCE_STATE_").lower().replace("_", " ")
        )
        shared = "shared" if info.shared else ""
        add_row(
            made,
            info.index,
            memory_file.kind_name(info.kind),
            state,
            info.embedding_dimension,
            shared,
            info.endpoint,
            info.message,
        )
    session.out.print(made)


@index_app.command()
def count(context: typer.Context, index: IndexArgument, as_json: JsonOption = False) -> None:
    """Count the group's records in an index, exactly up to 10,000.

    Example: `coxswain memory index count main.crews.unified`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.vector_indexes.CountIndexRecords(vector_index_pb2.CountIndexRecordsRequest(index=index))
    if session.json:
        return session.print_json(response)
    session.show(f"{'at least ' if response.at_least else ''}{response.count:,}")
    return None


@index_app.command("schema")
def show_schema(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="unified, short_term, long_term, entity or document.")],
    as_json: JsonOption = False,
) -> None:
    """Show the columns of a kind, and their positions in a search result.

    Example: `coxswain memory index schema unified`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.vector_indexes.GetSchema(vector_index_pb2.GetSchemaRequest(kind=memory_file.kind_from(kind)))
    if session.json:
        return session.print_json(response)
    made = Listing("name", "type", "filter", ">position")
    for column in response.fields:
        position = column.position if column.position >= 0 else ""
        add_row(made, column.name, column.type, "yes" if column.filterable else "", position)
    session.out.print(made)
    return None


@index_app.command("create")
def create_index(
    context: typer.Context,
    index: IndexArgument,
    backend: Annotated[str, typer.Option(help="The backend to register it with.")],
    kind: Annotated[str, typer.Option(help="Kind of the records it will hold.")] = "unified",
) -> None:
    """Create an index with the schema of a kind.

    Example: `coxswain memory index create main.crews.unified --backend lake --kind unified`
    """
    session = session_of(context)
    with session.client() as client:
        request = vector_index_pb2.CreateIndexRequest(
            index=index, kind=memory_file.kind_from(kind), **of_backend(backend)
        )
        found = client.vector_indexes.CreateIndex(request).index
    _show_indexes(session, [found])


@index_app.command()
def empty(
    context: typer.Context,
    index: IndexArgument,
    memory_id: Annotated[str, typer.Option("--memory-id", help="Only records of this crew.")] = "",
    yes: YesOption = False,
) -> None:
    """Remove the group's records from an index. Asks first.

    Example: `coxswain memory index empty main.crews.unified`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the group's records in {index}", "remove", yes=yes)
        request = vector_index_pb2.EmptyIndexRequest(index=index, confirm_name=index, memory_id=memory_id)
        done = follow_steps(session, client.vector_indexes.EmptyIndex(request), "removed")
    session.show(f"{done:,} removed")


@index_app.command("delete")
def delete_index(context: typer.Context, index: IndexArgument, yes: YesOption = False) -> None:
    """Drop an index and everything in it. Asks first.

    Example: `coxswain memory index delete main.crews.unified`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the index {index} with everything in it", "drop", yes=yes)
        client.vector_indexes.DeleteIndex(vector_index_pb2.DeleteIndexRequest(index=index, confirm_name=index))
    session.show(f"{index} dropped")
