"""Commands about the stores of memories: memory backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coxswain.client.cli.databases import (
    CaFileOption,
    DatabaseOption,
    HostOption,
    InstanceOption,
    PortOption,
    SecretOption,
    TlsOption,
    UserOption,
    database_fields,
    described,
)
from coxswain.client.cli.listing import Listing
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    Session,
    add_row,
    confirm,
    progress_bar,
    session_of,
    styled,
    table,
)
from coxswain.client.later import field_mask_pb2, memory_backend_pb2, memory_file, results
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from rich.progress import Progress

    from coxswain.client.blocking import Client

backend_app = typer.Typer(cls=ListingGroup, help="The stores that keep the memories of the group.")

EMBEDDED = "default"
"""The name of the installation's embedded store, where a backend is expected."""

BackendArgument = Annotated[str, typer.Argument(metavar="BACKEND", help="The backend's name or id.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _backends(client: Client) -> Iterator[memory_backend_pb2.MemoryBackend]:
    return pages(
        client.memory_backends.ListMemoryBackends,
        memory_backend_pb2.ListMemoryBackendsRequest(page_size=1000),
        "backends",
    )


def backend_key(reference: str) -> dict[str, str]:
    """The field of a request that names a backend by id or by name; ``default`` is the embedded store's id."""
    return {"id" if reference == EMBEDDED or results.id_of(reference) else "name": reference}


def of_backend(reference: str) -> dict[str, str]:
    """The field of a request that names the backend it concerns."""
    return {f"backend_{field}": value for field, value in backend_key(reference).items()}


@backend_app.command("list")
def list_backends(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the backends of the group. Without an active one the embedded store is used.

    Example: `coxswain memory backend list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(_backends(client))
    if session.json:
        return session.print_json(found)
    made = Listing("name", "active", "store", "disabled kinds", "id")
    for backend in found:
        active = styled("active", "green") if backend.active else ""
        disabled = ", ".join(memory_file.kind_name(kind) for kind in backend.disabled_kinds)
        add_row(made, backend.name, active, _store(backend), disabled, backend.id)
    session.out.print(made if found else "no backends: the embedded store is used")
    return None


def _store(backend: memory_backend_pb2.MemoryBackend) -> str:
    if backend.HasField("pgvector"):
        return described(backend.pgvector)
    if not backend.HasField("databricks"):
        return "embedded"
    config = backend.databricks
    return f"{config.workspace_url} {config.endpoint} {config.catalog}.{config.schema}"


@backend_app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for it, unique in the group.")],
    workspace: Annotated[str, typer.Option(help="Workspace URL; without one the backend is the embedded store.")] = "",
    endpoint: Annotated[str, typer.Option(help="Vector search endpoint.")] = "",
    catalog: Annotated[str, typer.Option(help="Catalog of the indexes.")] = "",
    schema: Annotated[str, typer.Option(help="Schema of the indexes.")] = "",
    indexes: Annotated[
        list[str] | None,
        typer.Option("--index", help="kind=name of an index, for example unified=memories; repeatable."),
    ] = None,
    embedding_model: Annotated[str, typer.Option(help="Embedding model; by default that of the installation.")] = "",
    dimension: Annotated[int, typer.Option(min=0, help="Length of the vectors; 0 means 1024.")] = 0,
    disabled: Annotated[list[str] | None, typer.Option("--disable", help="Kind not to store; repeatable.")] = None,
    host: HostOption = "",
    port: PortOption = 0,
    database: DatabaseOption = "",
    user: UserOption = "",
    tls: TlsOption = "",
    ca_file: CaFileOption = None,
    secret: SecretOption = "",
    instance: InstanceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Create a backend. It is not used until it is activated.

    Examples:

        coxswain memory backend create lake --workspace https://example.com --endpoint memories --catalog main
        --schema crews --index unified=unified

        coxswain memory backend create base --host db.example.com --database memories --user coxswain

        coxswain memory backend create base --host db.example.com --database databricks_postgres
        --workspace https://example.com --instance memories
    """
    session = session_of(context, as_json)
    of_index = bool(endpoint or catalog or indexes or embedding_model or dimension)
    of_database = bool(port or database or user or tls or ca_file or secret or instance)
    if host and of_index:
        raise typer.BadParameter("--host is for a database, which has no endpoint and no index", param_hint="--host")
    if of_database and not host:
        raise typer.BadParameter("these options belong to a database: give --host too", param_hint="--host")
    if not workspace and (of_index or (schema and not host)):
        raise typer.BadParameter("these options belong to a workspace: give --workspace too", param_hint="--workspace")
    if host and bool(workspace) != bool(instance):
        raise typer.BadParameter("--workspace and --instance of Lakebase go together", param_hint="--instance")
    backend = memory_backend_pb2.MemoryBackend(
        name=name, disabled_kinds=[memory_file.kind_from(kind) for kind in disabled or []]
    )
    if host:
        backend.pgvector.CopyFrom(
            database_fields(
                host=host,
                port=port,
                database=database,
                schema=schema,
                user=user,
                tls=tls,
                ca_file=ca_file,
                secret=secret,
                instance=instance,
                workspace=workspace,
            )
        )
    elif workspace:
        backend.databricks.CopyFrom(
            memory_backend_pb2.DatabricksBackendConfig(
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
        backend.default.CopyFrom(memory_backend_pb2.DefaultBackendConfig())
    with session.client() as client:
        created = client.memory_backends.CreateMemoryBackend(
            memory_backend_pb2.CreateMemoryBackendRequest(backend=backend)
        ).backend
    if session.json:
        return session.print_json(created)
    session.show(f"{created.name} created, id {created.id}")
    if host or workspace:
        made = "tables" if host else "endpoint and indexes"
        session.say(f"create its {made} with: coxswain memory backend provision {created.name}")
    session.say(f"activate it with: coxswain memory backend activate {created.name}")
    return None


@backend_app.command()
def update(
    context: typer.Context,
    backend: BackendArgument,
    name: Annotated[str, typer.Option(help="A new name.")] = "",
    workspace: Annotated[str, typer.Option(help="Workspace URL.")] = "",
    endpoint: Annotated[str, typer.Option(help="Vector search endpoint.")] = "",
    catalog: Annotated[str, typer.Option(help="Catalog of the indexes.")] = "",
    schema: Annotated[str, typer.Option(help="Schema of the indexes.")] = "",
    indexes: Annotated[
        list[str] | None,
        typer.Option("--index", help="kind=name of an index to add or to change; repeatable. Others stay."),
    ] = None,
    embedding_model: Annotated[str, typer.Option(help="Embedding model.")] = "",
    dimension: Annotated[int, typer.Option(min=0, max=4096, help="Length of the vectors; 0 leaves it unchanged.")] = 0,
    disabled: Annotated[list[str] | None, typer.Option("--disable", help="Kind not to store; repeatable.")] = None,
    enabled: Annotated[list[str] | None, typer.Option("--enable", help="Kind to store again; repeatable.")] = None,
    host: HostOption = "",
    port: PortOption = 0,
    database: DatabaseOption = "",
    user: UserOption = "",
    tls: TlsOption = "",
    ca_file: CaFileOption = None,
    secret: SecretOption = "",
    instance: InstanceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a backend. Only the options you give change; data is not moved.

    Example: `coxswain memory backend update lake --index entity=entities --disable short_term`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        present = client.memory_backends.GetMemoryBackend(
            memory_backend_pb2.GetMemoryBackendRequest(**backend_key(backend))
        ).backend
        changed = memory_backend_pb2.MemoryBackend()
        paths = []
        if name:
            changed.name = name
            paths.append("name")
        if present.HasField("pgvector") or host:
            if workspace or instance:
                # Both are one field: what was not given of it stays.
                workspace = workspace or present.pgvector.lakebase.workspace_url
                instance = instance or present.pgvector.lakebase.instance
            given = database_fields(
                host=host,
                port=port,
                database=database,
                schema=schema,
                user=user,
                tls=tls,
                ca_file=ca_file,
                secret=secret,
                instance=instance,
                workspace=workspace,
            )
            changed.pgvector.CopyFrom(given)
            paths += [f"pgvector.{field.name}" for field, _ in given.ListFields()]
        else:
            settings = {
                "workspace_url": workspace,
                "endpoint": endpoint,
                "catalog": catalog,
                "schema": schema,
                "embedding_model": embedding_model,
                "embedding_dimension": dimension,
            }
            for field, value in settings.items():
                if value:
                    setattr(changed.databricks, field, value)
                    paths.append(f"databricks.{field}")
        if indexes:
            kinds = {index.kind: index for index in present.databricks.indexes}
            kinds.update((index.kind, index) for index in map(_kind_index, indexes))
            changed.databricks.indexes.extend(kinds.values())
            paths.append("databricks.indexes")
        if disabled or enabled:
            wanted = {*present.disabled_kinds, *map(memory_file.kind_from, disabled or [])} - set(
                map(memory_file.kind_from, enabled or [])
            )
            changed.disabled_kinds[:] = sorted(wanted)
            paths.append("disabled_kinds")
        if not paths:
            raise typer.BadParameter("nothing to change: give at least one option")
        request = memory_backend_pb2.UpdateMemoryBackendRequest(
            id=present.id, backend=changed, update_mask=field_mask_pb2.FieldMask(paths=paths)
        )
        updated = client.memory_backends.UpdateMemoryBackend(request).backend
    if session.json:
        return session.print_json(updated)
    session.show(f"{updated.name} updated")
    return None


def _kind_index(text: str) -> memory_backend_pb2.KindIndex:
    kind, equals, index = text.partition("=")
    if not equals or not index:
        raise typer.BadParameter(f"{text!r}: expected kind=name", param_hint="--index")
    return memory_backend_pb2.KindIndex(kind=memory_file.kind_from(kind), index=index)


@backend_app.command()
def activate(context: typer.Context, backend: BackendArgument, as_json: JsonOption = False) -> None:
    """Make a backend the group's active one; ``default`` is the embedded store.

    Example: `coxswain memory backend activate lake`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.memory_backends.ActivateMemoryBackend(
            memory_backend_pb2.ActivateMemoryBackendRequest(**backend_key(backend))
        )
    if session.json:
        return session.print_json(response)
    session.show(f"{response.backend.name} is active" if response.HasField("backend") else "the embedded store is used")
    return None


@backend_app.command()
def verify(context: typer.Context, backend: BackendArgument, as_json: JsonOption = False) -> None:
    """Check what a backend needs, and say how to correct what is missing.

    Example: `coxswain memory backend verify lake`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.memory_backends.VerifyMemoryBackend(
            memory_backend_pb2.VerifyMemoryBackendRequest(**backend_key(backend))
        )
    if session.json:
        session.print_json(response)
    else:
        made = table("", "subject", "finding", "remedy")
        for check in response.checks:
            mark = styled("ok", "green") if check.ok else styled("failed", "red")
            add_row(made, mark, check.subject, check.finding, check.remedy)
        session.out.print(made)
    if not response.ok:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


@backend_app.command()
def provision(context: typer.Context, backend: BackendArgument) -> None:
    """Create the endpoint and indexes, or the tables, that a backend needs; repeated, it continues where it stopped.

    Example: `coxswain memory backend provision lake`
    """
    session = session_of(context)
    with session.client() as client:
        request = memory_backend_pb2.ProvisionMemoryBackendRequest(**backend_key(backend))
        follow_steps(session, client.memory_backends.ProvisionMemoryBackend(request), "provisioning")
    session.show(f"{backend} is ready")


@backend_app.command("delete")
def delete_backend(
    context: typer.Context,
    backend: BackendArgument,
    successor: Annotated[
        str, typer.Option(help="The backend to activate instead when this one is active, or default.")
    ] = "",
    yes: YesOption = False,
) -> None:
    """Remove the configuration of a backend; its data stays.

    Example: `coxswain memory backend delete lake --successor default`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the backend {backend}", "remove", yes=yes)
        request = memory_backend_pb2.DeleteMemoryBackendRequest(**backend_key(backend))
        if successor:
            for field, value in backend_key(successor).items():
                setattr(request, f"successor_{field}", value)
        client.memory_backends.DeleteMemoryBackend(request)
    session.show(f"{backend} removed")


def pace(rate: float) -> str:
    """A rate given in units per second, shown per second or per minute."""
    return f"{rate:,.1f} a second" if rate >= 1 else f"{rate * 60:,.1f} a minute"


def follow_steps(session: Session, steps: Any, what: str) -> int:
    """Show a stream of progress; return how many items were done."""
    done, said = 0, ""
    bar: Progress
    with progress_bar(session.err) as bar:
        task = bar.add_task(what, total=None)
        for step in steps:
            done = step.done
            named = getattr(step, "step", "") or what
            bar.update(task, completed=step.done, total=step.total or None, description=named)
            line = f"{named}: {step.done:,} of {f'{step.total:,}' if step.total else 'an unknown number'}"
            if bar.disable and line != said:
                session.say(line if not step.rate else f"{line}, {pace(step.rate)}")
                said = line
    return done
