"""Taking over an index that something else has filled: memory adopt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.backends import backend_key, follow_steps, of_backend
from coxswain.client.cli.session import JsonOption, Session, add_row, session_of, table
from coxswain.client.later import memory_backend_pb2, memory_file, vector_index_pb2

if TYPE_CHECKING:
    from coxswain.client.blocking import Client


def adopt(
    context: typer.Context,
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="The backend to register it with, by name or id.")],
    kind: Annotated[str, typer.Option(help="Kind of the records it holds.")] = "unified",
    index: Annotated[str, typer.Option(help="Its name, or full name; without it the backend's own for the kind.")] = "",
    from_group: Annotated[
        str, typer.Option(help="The group id that its rows carry, when it is another than your group's.")
    ] = "",
    from_crew: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="A crew id that rows carry, and the memory id to give them. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look and report.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take over an index that an older backend or another program has filled.

    It checks the index, registers it, and reports which rows can be read, which cannot, and where they are found. Rows
    of other groups stay as they are.

    Example: `coxswain memory adopt lake --index old_memories --dry-run`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = vector_index_pb2.AdoptIndexRequest(
            index=_full_name(client, backend, index),
            kind=memory_file.kind_from(kind),
            from_group=from_group,
            memory_ids=dict(map(_pair, from_crew or ())),
            dry_run=dry_run,
            **of_backend(backend),
        )
        reports: list[vector_index_pb2.AdoptionReport] = []
        follow_steps(session, _noting(client.vector_indexes.AdoptIndex(request), reports), "reading")
    if session.json:
        return session.print_json(reports[-1])
    _show(session, reports[-1], dry_run=dry_run)
    return None


def _full_name(client: Client, backend: str, index: str) -> str:
    if not index or "." in index:
        return index
    config = client.memory_backends.GetMemoryBackend(
        memory_backend_pb2.GetMemoryBackendRequest(**backend_key(backend))
    ).backend.databricks
    return f"{config.catalog}.{config.schema}.{index}"


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.rpartition("=")
    if not separator or not old or not new:
        raise typer.BadParameter(f"{text} is not of the form OLD=NEW", param_hint="--from-crew")
    return old, new


def _noting(
    steps: Iterator[vector_index_pb2.AdoptIndexResponse], reports: list[vector_index_pb2.AdoptionReport]
) -> Iterator[vector_index_pb2.AdoptIndexResponse]:
    for step in steps:
        if step.HasField("report"):
            reports.append(step.report)
        yield step


def _show(session: Session, report: vector_index_pb2.AdoptionReport, *, dry_run: bool) -> None:
    if report.memories:
        made = table("memory id", ">records", "note")
        for memory in report.memories:
            add_row(made, memory.memory_id, memory.record_count, memory.problem)
        session.out.print(made)
    if report.unreadable_rows:
        made = table("row", "cannot be read")
        for row in report.unreadable_rows:
            add_row(made, row.primary_key, row.reason)
        session.out.print(made)
    changed = f", {report.changed:,} {'would be' if dry_run else 'were'} given other ids" if report.changed else ""
    session.show(
        f"{report.readable:,} can be read, {report.unreadable:,} cannot{changed}; "
        f"{report.of_others:,} of other groups passed over"
    )
