"""Commands about documents: memory document save, list, get, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    add_row,
    confirm,
    one_line,
    progress_bar,
    session_of,
    table,
)
from coxswain.client.later import document_pb2, errors, json_format
from coxswain.client.paging import pages

document_app = typer.Typer(cls=ListingGroup, help="Save files for crews to look things up in.")

IdArgument = Annotated[str, typer.Argument(help="Id of the document, as `memory document list` shows it.")]


@document_app.command()
def save(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="Text, Markdown, HTML, PDF, DOCX or CSV.", exists=True, dir_okay=False)
    ],
    document_id: Annotated[str, typer.Option("--id", help="Id of the document; by default the file's name.")] = "",
    title: Annotated[str, typer.Option(help="Title; by default that of the file.")] = "",
    source: Annotated[str, typer.Option(help="Where it came from; by default the file's name.")] = "",
    media_type: Annotated[str, typer.Option(help="Media type; by default by the file's ending.")] = "",
    agent: Annotated[list[str] | None, typer.Option(help="Role of an agent that may use it; all by default.")] = None,
    chunk_characters: Annotated[int, typer.Option(min=0, help="Greatest length of a part; 0 means 1500.")] = 0,
    embedding_model: Annotated[str, typer.Option(help="Model to embed with; by default the documents'.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Save files as documents of the group, in place of those that were saved under the same ids.

    A file that has not changed costs nothing. One that fails does not keep the others from being saved.

    Example: `coxswain memory document save handbook.pdf prices.csv`
    """
    session = session_of(context, as_json)
    if len(files) > 1 and (document_id or title or source):
        raise typer.BadParameter("is possible with one file alone", param_hint="--id, --title or --source")
    saved: list[document_pb2.SaveDocumentResponse] = []
    failed = 0
    with session.client() as client, progress_bar(session.err) as bar:
        for file in files:
            header = document_pb2.DocumentHeader(
                id=document_id,
                title=title,
                source=source,
                media_type=media_type,
                agent_ids=agent or (),
                chunk_characters=chunk_characters,
                embedding_model=embedding_model,
            )
            task = bar.add_task(f"{file.name}: sending", total=file.stat().st_size)

            def show(response: document_pb2.SaveDocumentResponse, task=task, name=file.name) -> None:  # type: ignore[no-untyped-def]
                if response.stage == document_pb2.DocumentStage.DOCUMENT_STAGE_RECEIVING:
                    bar.update(task, completed=response.received_bytes)
                else:
                    done = response.embedded_parts
                    bar.update(task, description=f"{name}: embedding", total=response.part_count, completed=done)

            try:
                response = client.save_document(file, header, on_progress=show)
            except (errors.InvalidArgument, errors.CoxswainError) as error:
                failed += 1
                session.fail(f"{file}: {error}")
                continue
            saved.append(response)
            document = response.document
            state = "unchanged" if response.unchanged else f"{document.part_count:,} parts"
            session.say(f"{document.id}: {state}, revision {document.revision}")
    if session.json:
        session.print_json([response.document for response in saved])
    if failed:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


@document_app.command("list")
def list_documents(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the documents of the group, sorted by id.

    Example: `coxswain memory document list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = document_pb2.ListDocumentsRequest(page_size=min(limit + 1, 1000))
        found: list[document_pb2.Document] = list(
            pages(client.documents.ListDocuments, request, "documents", limit + 1)
        )
    if len(found) > limit:
        del found[limit:]
        session.say("there are more: raise --limit", "yellow")
    if session.json:
        return session.print_json(found)
    made = Listing("id", "title", ">parts", ">bytes", "changed")
    for one in found:
        size = f"{one.size_bytes:,}"
        add_row(made, one.id, one_line(one.title), f"{one.part_count:,}", size, When(one.update_time))
    session.out.print(made if found else "no documents")
    return None


@document_app.command()
def get(context: typer.Context, document_id: IdArgument, as_json: JsonOption = False) -> None:
    """Show what is known of a document.

    Example: `coxswain memory document get handbook.pdf`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        document = client.documents.GetDocument(document_pb2.GetDocumentRequest(id=document_id)).document
    if session.json:
        return session.print_json(document)
    made = table("field", "value")
    for name, value in json_format.MessageToDict(document, preserving_proto_field_name=True).items():
        add_row(made, name, one_line(str(value)))
    session.out.print(made)
    return None


@document_app.command()
def delete(
    context: typer.Context,
    document_id: IdArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a document with all of its parts.

    Example: `coxswain memory document delete handbook.pdf --yes`
    """
    session = session_of(context)
    confirm(session, f"the document {document_id} with all of its parts", "delete", yes=yes)
    with session.client() as client:
        deleted = client.documents.DeleteDocument(document_pb2.DeleteDocumentRequest(id=document_id)).deleted_parts
    session.say(f"{document_id} is gone with its {deleted:,} parts")
