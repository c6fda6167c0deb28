"""Commands that move memories to a file and back: memory export, memory import."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.namespaces import (
    CrewOption,
    KindOption,
    MemoryIdOption,
    namespace_of,
    namespaces,
    unknown,
)
from coxswain.client.cli.session import EXIT_USAGE, Session, progress_bar, session_of
from coxswain.client.later import documents, errors, json_format, memory_file, memory_pb2, record_pb2

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_BATCH = 200
_BATCH_BYTES = 2 * 1024 * 1024
_RECORD_PATH = re.compile(r"records\[(\d+)\]\.?")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export_records)
    app.command("import")(import_records)


def export_records(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write, JSON lines; - for standard output.", dir_okay=False)],
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    kind: KindOption = "unified",
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Export the vectors too; without them an import embeds the texts again."),
    ] = False,
) -> None:
    """Write a crew's memories as JSON lines.

    The first line names their origin. Without --embeddings they can be imported under another embedding model. Private
    memories are included if you are an editor or admin. An existing file is replaced once everything is written.

    Example: `coxswain memory export memories.jsonl --crew brief`
    """
    session = session_of(context)
    with session.client() as client:
        namespace = namespace_of(client, crew, memory_id, kind)
        origin = next((info for info in namespaces(client) if info.namespace == namespace), None)
        if origin is None:
            if memory_id:
                session.fail(unknown(namespace))
                raise typer.Exit(EXIT_USAGE)
            session.say(unknown(namespace), "yellow")
        request = memory_pb2.ExportRecordsRequest(
            namespace=namespace, filter=_all_one_may_see(session, client, namespace), include_embeddings=embeddings
        )
        header = memory_file.Header(
            namespace,
            origin.embedding_model if origin else "",
            embeddings=embeddings,
            crew_name=origin.crew_name if origin else "",
        )
        written = 0
        with _written(file) as sink, progress_bar(session.err) as bar:
            task = bar.add_task("exported", total=None)
            sink.write(header.line() + "\n")
            for response in client.export_records(request):
                if response.HasField("origin"):
                    bar.update(task, total=response.origin.record_count)
                for record in response.records:
                    # It counts saves there, not here.
                    record.ClearField("revision")
                    line = json.dumps(
                        json_format.MessageToDict(record, preserving_proto_field_name=True), ensure_ascii=False
                    )
                    sink.write(line + "\n")
                written += len(response.records)
                bar.update(task, completed=written)
    session.say(f"{written:,} exported to {'standard output' if str(file) == '-' else file}")


def _all_one_may_see(session: Session, client: Client, namespace: memory_pb2.Namespace) -> memory_pb2.RecordFilter:
    """The widest filter the caller may use."""
    everything = memory_pb2.RecordFilter(include_private=namespace.kind == record_pb2.MemoryKind.MEMORY_KIND_UNIFIED)
    try:
        client.memory.CountRecords(memory_pb2.CountRecordsRequest(namespace=namespace, filter=everything))
    except errors.PermissionDenied:
        session.say("private memories are left out: only the role editor sees them", "yellow")
        return memory_pb2.RecordFilter()
    return everything


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """A file that appears only when it is complete; standard output, devices and pipes are written directly."""
    if str(path) == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    # The target of a link is replaced, not the link.
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("w", encoding="utf-8") as sink:
            yield sink
        return
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as sink:
            yield sink
        partial.replace(target)
    except OSError as error:
        if error.filename == str(partial):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def import_records(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="JSON lines as `memory export` writes them; - for standard input.", dir_okay=False)
    ],
    crew: CrewOption = "",
    memory_id: MemoryIdOption = "",
    reembed: Annotated[
        bool, typer.Option("--reembed", help="Embed the texts again instead of using the vectors of the file.")
    ] = False,
    embedding_model: Annotated[
        str, typer.Option(help="Model to embed with; by default the model of the namespace.")
    ] = "",
) -> None:
    """Import memories that `memory export` wrote, by default into the crew they came from.

    Records keep their ids (a record without one gets an id derived from its content): importing a file twice changes
    nothing, and an interrupted import can simply be repeated.

    Example: `coxswain memory import memories.jsonl --crew brief --reembed`
    """
    session = session_of(context)
    name = "standard input" if str(file) == "-" else str(file)
    with session.client() as client, _opened(file) as (source, size):
        header = memory_file.read_header(name, source)
        namespace = header.namespace
        if crew or memory_id:
            namespace = namespace_of(client, crew, memory_id, memory_file.kind_name(header.namespace.kind))
        vectors = header.embeddings and not reembed
        if vectors and embedding_model not in ("", header.embedding_model):
            raise typer.BadParameter(
                f"the vectors of the file come from {header.embedding_model or 'an unnamed model'}: "
                f"add --reembed to embed the texts with {embedding_model}",
                param_hint="--embedding-model",
            )
        request = memory_pb2.SaveRecordsRequest(namespace=namespace)
        if not crew and not memory_id:
            request.crew_name = header.crew_name
        request.embedding_model = embedding_model or (header.embedding_model if vectors else "")
        done = 0
        try:
            with progress_bar(session.err) as bar:
                task = bar.add_task("imported", total=size)
                for batch in _batches(
                    memory_file.read_records(name, source, header.namespace.kind, keep_vectors=vectors)
                ):
                    _save(client, request, batch, name)
                    done += len(batch)
                    bar.update(task, completed=batch[-1].end, description=f"imported {done:,}")
                bar.update(task, completed=size)
        except BaseException:
            if done:
                session.say(f"{done:,} imported before this error; repeat the whole import to continue", "yellow")
            raise
    session.say(f"{done:,} imported into {namespace.memory_id or 'the group'}, {memory_file.kind_name(namespace.kind)}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int | None]]:
    """The source, and its size in bytes if it is known."""
    if str(path) == "-":
        yield sys.stdin.buffer, None
        return
    with path.open("rb") as source:
        yield source, path.stat().st_size or None


def _batches(entries: Iterator[memory_file.Entry]) -> Iterator[list[memory_file.Entry]]:
    """Records in batches that fit a message."""
    batch: list[memory_file.Entry] = []
    size = 0
    for entry in entries:
        length = entry.record.ByteSize()
        if batch and (len(batch) == _BATCH or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    if batch:
        yield batch


def _save(
    client: Client, request: memory_pb2.SaveRecordsRequest, batch: Sequence[memory_file.Entry], name: str
) -> None:
    """Store a batch. Raises DocumentError with the lines of the records that the server refuses."""
    del request.records[:]
    request.records.extend(entry.record for entry in batch)
    try:
        client.memory.SaveRecords(request)
    except errors.ResourceExhausted as error:
        if error.reason:
            raise
        # Larger than this server's limit of a message.
        if len(batch) == 1:
            problem = documents.Problem("", f"too large to send: {batch[0].record.ByteSize():,} bytes", batch[0].line)
            raise documents.DocumentError(name, [problem]) from error
        middle = len(batch) // 2
        _save(client, request, batch[:middle], name)
        _save(client, request, batch[middle:], name)
    except errors.InvalidArgument as error:
        problems = []
        for violation in error.violations:
            record = _RECORD_PATH.match(violation.field)
            if record is None:
                raise
            field = violation.field[record.end() :]
            problems.append(documents.Problem(field, violation.description, batch[int(record[1])].line))
        if not problems:
            raise
        raise documents.DocumentError(name, problems) from error
