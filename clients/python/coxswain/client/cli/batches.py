"""Commands about batches, which run one crew with many inputs: batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.inputs import InputsOption, LabelsOption, inputs_from, labels_from
from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, add_row, confirm, session_of, table
from coxswain.client.later import batch_pb2, execution_pb2, progress, results, struct_pb2, values
from coxswain.client.paging import pages
from coxswain.client.text_files import read_text

if TYPE_CHECKING:
    from rich.table import Table

    from coxswain.client.blocking import Client

app = typer.Typer(cls=ListingGroup, help="Run one crew with many inputs.")

BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id.")]

_MAX_FILE_BYTES = 64 * 1024 * 1024


@app.command()
def start(
    context: typer.Context,
    crew: Annotated[str, typer.Argument(help="Name or id of a stored crew.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="Inputs: a JSON object on each line.")],
    given: InputsOption = None,
    parallel: Annotated[int, typer.Option(min=0, max=1000, help="Most executions at once; 0 means 8.")] = 0,
    model: Annotated[str, typer.Option(help="Model to use instead of the crew's own.")] = "",
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Lower runs first; 0 means 100.")] = 0,
    labels: LabelsOption = None,
    request_id: Annotated[str, typer.Option(help="Repeating the command with it starts nothing twice.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Store inputs and let an execution be made of each. Inputs given by --input count for all of them.

    Example: `coxswain batch start brief -f letters.jsonl --parallel 20 --label team=sales`
    """
    session = session_of(context, as_json)
    common, marked, items = inputs_from(session, given), labels_from(labels), _items(file)
    with session.client() as client:
        template = results.start_request(client.get_crew(crew), common, model=model, priority=priority, labels=marked)
        template.ClearField("request_id")
        request = batch_pb2.StartBatchRequest(
            start=template, inputs=items, max_parallel=parallel, request_id=request_id
        )
        batch = client.batches.StartBatch(request).batch
    if session.json:
        return session.print_json(batch)
    session.show(batch.id)
    session.say(f"follow it with: coxswain batch show {batch.id}")
    return None


@app.command()
def show(context: typer.Context, id: BatchArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Show how far a batch has come, and the first of its executions that failed.

    Example: `coxswain batch show 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        batch = client.batches.GetBatch(batch_pb2.GetBatchRequest(id=id)).batch
    if session.json:
        return session.print_json(batch)
    session.out.print(_details(batch))
    return None


@app.command("list")
def list_batches(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List batches, newest first.

    Example: `coxswain batch list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(_batches(client, limit))
    if session.json:
        return session.print_json(found)
    made = Listing("id", "crew", "created", ">total", "state", "progress")
    for batch in found:
        add_row(made, batch.id, batch.crew_name, When(batch.create_time), batch.total, _state(batch), _counts(batch))
    session.out.print(made if found else "no batches")
    return None


@app.command()
def cancel(context: typer.Context, id: BatchArgument, as_json: JsonOption = False) -> None:  # noqa: A002
    """Make no more executions of a batch, and cancel those that have not ended.

    Example: `coxswain batch cancel 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        batch = client.batches.CancelBatch(batch_pb2.CancelBatchRequest(id=id)).batch
    if session.json:
        return session.print_json(batch)
    session.show(_state(batch))
    return None


@app.command()
def delete(
    context: typer.Context,
    id: BatchArgument,  # noqa: A002
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a batch that has ended, with its executions, their results and events.

    Example: `coxswain batch delete 01a20694-1f86-7c54-8594-1ba930202397 --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"batch {id} with its executions, their results and events", "delete", yes=yes)
    with session.client() as client:
        response = client.batches.DeleteBatch(batch_pb2.DeleteBatchRequest(id=id))
    if session.json:
        return session.print_json(response)
    if response.deleted:
        session.show(f"deleted, with {response.deleted_executions:,} executions")
    else:
        session.show("there was nothing to delete")
    return None


def _batches(client: Client, limit: int) -> list[batch_pb2.Batch]:
    request = batch_pb2.ListBatchesRequest(page_size=min(limit, 1000))
    return list(pages(client.batches.ListBatches, request, "batches", limit))


def _items(file: Path) -> list[struct_pb2.Struct]:
    """The inputs of a file.

    Raises typer.BadParameter, which names the line at fault, OSError and TextFileError for a file that cannot be used.
    """
    read = read_text(file, max_bytes=_MAX_FILE_BYTES)
    items = []
    # Not splitlines: JSON texts may hold other characters that end lines.
    for number, line in enumerate(read.text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise typer.BadParameter(f"line {number} is not valid JSON: {error}", param_hint="--file") from None
        if not isinstance(found, dict):
            raise typer.BadParameter(f"line {number} is not a JSON object", param_hint="--file")
        items.append(values.to_value(found).struct_value)
    return items


def _details(batch: batch_pb2.Batch) -> Table:
    made = table("", "")
    usage = batch.usage
    rows = {
        "id": batch.id,
        "crew": f"{batch.crew_name} revision {batch.crew_revision} ({batch.crew_id})",
        "state": _state(batch),
        "inputs": batch.total,
        "progress": _counts(batch),
        "at once": batch.max_parallel,
        "started by": batch.subject,
        "tokens": f"{usage.input_tokens:,} in, {usage.output_tokens:,} out",
        "cost": f"${usage.cost:.2f}",
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(batch.labels.items())),
        "waits": _reason(batch.pending_reason),
        "error": _reason(batch.error),
    }
    for name, value in rows.items():
        if value != "":
            add_row(made, name, value)
    for failure in batch.failures:
        add_row(made, f"failed {failure.index}", f"{failure.execution_id}: {failure.error.message}")
    return made


def _reason(error: execution_pb2.ExecutionError) -> str:
    return f"{error.message} ({error.reason})" if error.reason else ""


def _state(batch: batch_pb2.Batch) -> str:
    if batch.HasField("end_time"):
        return "cancelled" if batch.HasField("cancel_request_time") else "ended"
    return "being cancelled" if batch.HasField("cancel_request_time") else "running"


def _counts(batch: batch_pb2.Batch) -> str:
    parts = [f"{each.count:,} {progress.state_words(each.state)}" for each in batch.counts]
    return ", ".join([*parts, f"{batch.pending:,} pending"] if batch.pending else parts)
