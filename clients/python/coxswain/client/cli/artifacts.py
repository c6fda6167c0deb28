"""Commands about the files of executions: artifact list, get."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.session import JsonOption, add_row, session_of
from coxswain.client.later import artifact_pb2
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

app = typer.Typer(no_args_is_help=True, help="List and download the files of executions.")

ExecutionArgument = Annotated[str, typer.Argument(metavar="EXECUTION", help="The execution's id.")]


@app.command("list")
def list_artifacts(
    context: typer.Context,
    execution: ExecutionArgument,
    task: Annotated[str, typer.Option(help="Only files that this task has stored.")] = "",
    prefix: Annotated[str, typer.Option(help="Only files whose names begin so, such as notes/.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """List the files of an execution: what agents have written, and results with an output_file.

    Example: `coxswain artifact list 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    request = artifact_pb2.ListArtifactsRequest(
        execution_id=execution, task_name=task, name_prefix=prefix, page_size=min(limit, 1000)
    )
    with session.client() as client:
        found = list(pages(client.artifacts.ListArtifacts, request, "artifacts", limit))
    if session.json:
        return session.print_json(found)
    shown = Listing("name", ">bytes", "type", "task", "stored")
    for artifact in found:
        size, stored = f"{artifact.size_bytes:,}", When(artifact.store_time)
        add_row(shown, artifact.name, size, artifact.media_type, artifact.task_name, stored)
    if found:
        session.out.print(shown)
    else:
        session.say("no files")
    return None


@app.command("get")
def get(
    context: typer.Context,
    execution: ExecutionArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The file's name, as `list` shows it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to store it (- for standard output); by default the last part of its name, in this directory.",
        ),
    ] = None,
    revision: Annotated[int, typer.Option(min=0, help="An earlier revision; 0 is the newest one.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Download a file of an execution. A file that is there already is not replaced.

    Examples:

        coxswain artifact get 01a20694-1f86-7c54-8594-1ba930202397 notes/report.md

        coxswain artifact get 01a20694-1f86-7c54-8594-1ba930202397 notes/report.md -o - | less
    """
    session = session_of(context, as_json)
    with session.client() as client:
        if output is not None and str(output) == "-":
            return _write(client, execution, name, revision, sys.stdout.buffer)
        target = output or Path(local_name(name))
        if target.is_dir():
            target /= local_name(name)
        request = artifact_pb2.GetArtifactRequest(execution_id=execution, name=name, revision=revision)
        artifact = client.artifacts.GetArtifact(request).artifact
        with new_file(target) as file:
            _write(client, execution, name, artifact.revision, file)
    if session.json:
        return session.print_json({"path": str(target), "artifact": artifact})
    session.show(f"{target}: {artifact.size_bytes:,} bytes")
    return None


def _write(client: Client, execution: str, name: str, revision: int, file: BinaryIO) -> None:
    with closing(client.download_artifact(execution, name, revision=revision)) as content:
        file.writelines(content)
    file.flush()


def local_name(name: str) -> str:
    """The last part of a file's name, for this directory. Raises ValueError if it would lie elsewhere."""
    last = name.rpartition("/")[2]
    if last in {"", ".", ".."} or not last.isprintable() or any(character in last for character in '\\:*?"<>|'):
        raise ValueError(f"{name!r} is no name for a file here: say where to store it with --output")
    return last


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file that stays if it gets all of its content. Raises FileExistsError if there is one of that name."""
    try:
        file = target.open("xb")
    except FileExistsError as error:
        raise FileExistsError(error.errno, "is there already: choose another name with --output", str(target)) from None
    try:
        with file:
            yield file
    except BaseException:
        target.unlink()
        raise
