"""Commands about where memories lie: memory backend, memory index."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.text import Text

from coxswain.client.blocking import Client
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    Session,
    add_row,
    confirm,
    progress_bar,
    session_of,
    table,
)
from coxswain.client.memory_file import kind_from, kind_name
from coxswain.client.paging import pages
from coxswain.memory.v1.memory_backend_service_pb2 import (
    ActivateRequest,
    CreateMemoryBackendRequest,
    DatabricksBackendConfig,
    DefaultBackendConfig,
    DeleteMemoryBackendRequest,
    KindIndex,
    ListMemoryBackendsRequest,
    MemoryBackend,
    ProvisionRequest,
    VerifyRequest,
)
from coxswain.memory.v1.vector_index_service_pb2 import (
    CountDocumentsRequest,
    CreateIndexRequest,
    DeleteIndexRequest,
    DescribeIndexRequest,
    EmptyIndexRequest,
    GetSchemaRequest,
    IndexInfo,
    ListIndexesRequest,
    ResourceState,
)

backend_app = typer.Typer(no_args_is_help=True, help="Where the group's memories lie.", rich_markup_mode="markdown")
index_app = typer.Typer(no_args_is_help=True, help="The group's vector search indexes.", rich_markup_mode="markdown")

EMBEDDED = "default"
"""What stands for the installation's embedded store in place of a backend."""

BackendArgument = Annotated[str, typer.Argument(metavar="BACKEND", help="The backend's name or id.")]
IndexArgument = Annotated[str, typer.Argument(metavar="INDEX", help="Full name: catalog, schema and index.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _backends(client: Client) -> Iterator[MemoryBackend]:
    return pages(client.memory_backends.ListMemoryBackends, ListMemoryBackendsRequest(page_size=1000), "backends")


def _backend_id(client: Client, reference: str) -> str:
    """The id of a backend that is named by id or by name; ``default`` stands for itself."""
    if reference == EMBEDDED:
        return reference
    found = [backend.id for backend in _backends(client) if reference in (backend.id, backend.name)]
    # The server says best what is wrong with an id it does not know.
    return found[0] if found else reference


@backend_app.command("list")
def list_backends(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the group's backends; without an active one the embedded store is used.

    Example: `coxswain memory backend list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(_backends(client))
    if session.json:
        return session.print_json(found)
    made = table("name", "active", "store", "disabled kinds", "id")
    for backend in found:
        active = Text("active", style="green") if backend.active else ""
        disabled = ", ".join(kind_name(kind) for kind in backend.disabled_kinds)
        add_row(made, backend.name, active, _store(backend), disabled, backend.id)
    session.out.print(made if found else "no backends: the embedded store is used")
    return None


def _store(backend: MemoryBackend) -> str:
    if not backend.HasField("databricks"):
        return "embedded"
    config = backend.databricks
    return f"{config.workspace_url} {config.endpoint} {config.catalog}.{config.schema}"


@backend_app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for it, unique in the group.")],
    workspace: Annotated[str, typer.Option(help="Workspace URL; without one it is the embedded store.")] = "",
    endpoint: Annotated[str, typer.Option(help="Vector search endpoint.")] = "",
    catalog: Annotated[str, typer.Option(help="Catalog of the indexes.")] = "",
    schema: Annotated[str, typer.Option(help="Schema of the indexes.")] = "",
    indexes: Annotated[
        list[str] | None,
        typer.Option("--index", help="kind=name of an index, for example unified=memories; repeatable."),
    ] = None,
    embedding_model: Annotated[str, typer.Option(help="Model of the vectors; the installation's by default.")] = "",
    dimension: Annotated[int, typer.Option(min=0, help="Length of the vectors; 0 means 1024.")] = 0,
    disabled: Annotated[list[str] | None, typer.Option("--disable", help="Kind not to store; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a backend. It is not used until it is activated.

    Example: `coxswain memory backend create lake --workspace https://example.com --endpoint memories --catalog main
    --schema crews --index unified=unified`
    """
    session = session_of(context, as_json)
    backend = MemoryBackend(name=name, disabled_kinds=[kind_from(kind) for kind in disabled or []])
    if workspace:
        backend.databricks.CopyFrom(
            DatabricksBackendConfig(
                workspace_url=workspace,
                endpoint=endpoint,
                catalog=catalog,
                schema=schema,
                indexes=[_kind_index(text) for text in indexes or []],
                embedding_model=embedding_model,
                embedding_dimension=dimension,
            )
        )
    else:
        backend.default.CopyFrom(DefaultBackendConfig())
    with session.client() as client:
        created = client.memory_backends.CreateMemoryBackend(CreateMemoryBackendRequest(backend=backend)).backend
    if session.json:
        return session.print_json(created)
    session.show(
        f"{created.name} created, id {created.id}; use it with: coxswain memory backend activate {created.name}"
    )
    return None


def _kind_index(text: str) -> KindIndex:
    kind, equals, index = text.partition("=")
    if not equals or not index:
        raise typer.BadParameter(f"{text!r}: expected kind=name", param_hint="--index")
    return KindIndex(kind=kind_from(kind), index=index)


@backend_app.command()
def activate(context: typer.Context, backend: BackendArgument, as_json: JsonOption = False) -> None:
    """Make a backend the group's active one; ``default`` is the embedded store.

    Example: `coxswain memory backend activate lake`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.memory_backends.Activate(ActivateRequest(id=_backend_id(client, backend)))
    if session.json:
        return session.print_json(response)
    session.show(f"{response.backend.name} is active" if response.HasField("backend") else "the embedded store is used")
    return None


@backend_app.command()
def verify(context: typer.Context, backend: BackendArgument, as_json: JsonOption = False) -> None:
    """Check what a backend needs, and tell how to mend what is missing.

    Example: `coxswain memory backend verify lake`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.memory_backends.Verify(VerifyRequest(id=_backend_id(client, backend)))
    if session.json:
        session.print_json(response)
    else:
        made = table("", "subject", "finding", "mend")
        for check in response.checks:
            mark = Text("well", style="green") if check.ok else Text("wrong", style="red")
            add_row(made, mark, check.subject, check.finding, check.mend)
        session.out.print(made)
    if not response.ok:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


@backend_app.command()
def provision(context: typer.Context, backend: BackendArgument) -> None:
    """Make the endpoint and the indexes a backend needs; repeated, it goes on where it stopped.

    Example: `coxswain memory backend provision lake`
    """
    session = session_of(context)
    with session.client() as client:
        request = ProvisionRequest(id=_backend_id(client, backend))
        _follow(session, client.memory_backends.Provision(request), "provisioning")
    session.show(f"{backend} is ready")


@backend_app.command("delete")
def delete_backend(
    context: typer.Context,
    backend: BackendArgument,
    successor: Annotated[
        str, typer.Option(help="For the active one: the backend to use from then on, or default.")
    ] = "",
    yes: YesOption = False,
) -> None:
    """Remove a backend's configuration; the data it points at stays.

    Example: `coxswain memory backend delete lake --successor default`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the backend {backend}", "remove", yes=yes)
        request = DeleteMemoryBackendRequest(id=_backend_id(client, backend))
        if successor:
            request.successor_id = _backend_id(client, successor)
        client.memory_backends.DeleteMemoryBackend(request)
    session.show(f"{backend} removed")


@index_app.command("list")
def list_indexes(
    context: typer.Context,
    backend: Annotated[str, typer.Option(help="Only indexes of this backend.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the indexes registered to the group, with their state.

    Example: `coxswain memory index list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = ListIndexesRequest(backend_id=_backend_id(client, backend) if backend else "")
        found = list(client.vector_indexes.ListIndexes(request).indexes)
    if session.json:
        return session.print_json(found)
    if found:
        _show_indexes(session, found)
    else:
        session.show("no indexes: backends in a workspace have them, see `coxswain memory backend create --help`")
    return None


@index_app.command()
def describe(context: typer.Context, index: IndexArgument, as_json: JsonOption = False) -> None:
    """Tell the state of an index.

    Example: `coxswain memory index describe main.crews.unified`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.vector_indexes.DescribeIndex(DescribeIndexRequest(index=index)).index
    if session.json:
        return session.print_json(found)
    _show_indexes(session, [found])
    return None


def _show_indexes(session: Session, indexes: Iterable[IndexInfo]) -> None:
    made = table("name", "kind", "state", ">dimension", "shared", "endpoint", "message")
    for info in indexes:
        state = ResourceState.Name(info.state).removeprefix("RESOURCE_STATE_").lower().replace("_", " ")
        shared = "shared" if info.shared else ""
        add_row(
            made, info.index, kind_name(info.kind), state, info.embedding_dimension, shared, info.endpoint, info.message
        )
    session.out.print(made)


@index_app.command()
def count(context: typer.Context, index: IndexArgument, as_json: JsonOption = False) -> None:
    """Count the group's records in an index, exactly up to 10,000.

    Example: `coxswain memory index count main.crews.unified`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.vector_indexes.CountDocuments(CountDocumentsRequest(index=index))
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
    """Show the columns of a kind, and where a search returns them.

    Example: `coxswain memory index schema unified`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.vector_indexes.GetSchema(GetSchemaRequest(kind=kind_from(kind)))
    if session.json:
        return session.print_json(response)
    made = table("name", "type", "filter", ">position")
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
    kind: Annotated[str, typer.Option(help="What it will hold.")] = "unified",
) -> None:
    """Make an index with the schema of a kind.

    Example: `coxswain memory index create main.crews.unified --backend lake --kind unified`
    """
    session = session_of(context)
    with session.client() as client:
        request = CreateIndexRequest(index=index, backend_id=_backend_id(client, backend), kind=kind_from(kind))
        found = client.vector_indexes.CreateIndex(request).index
    _show_indexes(session, [found])


@index_app.command()
def empty(
    context: typer.Context,
    index: IndexArgument,
    crew_id: Annotated[str, typer.Option("--crew-id", help="Only records of this crew.")] = "",
    yes: YesOption = False,
) -> None:
    """Remove the group's records from an index. Asks first.

    Example: `coxswain memory index empty main.crews.unified`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the group's records in {index}", "remove", yes=yes)
        request = EmptyIndexRequest(index=index, confirm_name=index, crew_id=crew_id)
        done = _follow(session, client.vector_indexes.EmptyIndex(request), "removed")
    session.show(f"{done:,} removed")


@index_app.command("delete")
def delete_index(context: typer.Context, index: IndexArgument, yes: YesOption = False) -> None:
    """Drop an index and everything in it. Asks first.

    Example: `coxswain memory index delete main.crews.unified`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the index {index} with everything in it", "drop", yes=yes)
        client.vector_indexes.DeleteIndex(DeleteIndexRequest(index=index, confirm_name=index))
    session.show(f"{index} dropped")


def _follow(session: Session, steps: Any, what: str) -> int:
    """Show a stream of progress; return how much was done."""
    done = 0
    bar: Progress
    with progress_bar(session.err) as bar:
        task = bar.add_task(what, total=None)
        for step in steps:
            done = step.done
            named = getattr(step, "step", "") or what
            bar.update(task, completed=step.done, total=step.total or None, description=named)
            if bar.disable:
                session.say(f"{named}: {step.done:,} of {step.total or 'an unknown number'}")
    return done
