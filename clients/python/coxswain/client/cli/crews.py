"""Commands about stored crews: crews list, get, export, diff, publish, unpublish, delete."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    Session,
    add_row,
    confirm,
    session_of,
    styled,
    table,
)
from coxswain.client.later import a2a_pb2, crew_file, crew_pb2, field_mask_pb2, message_writer, results
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from coxswain.client.blocking import Client

app = typer.Typer(cls=ListingGroup, help="List the group's crews, newest first; show, export, compare one.")

CrewArgument = Annotated[str, typer.Argument(metavar="CREW", help="The crew, by name or id.")]
RevisionOption = Annotated[int, typer.Option(min=0, help="Revision to take; by default the newest.")]
_STYLES = {"+": "green", "-": "red", "@": "dim"}


@app.command("list")
def list_crews(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the group's crews, newest first.

    Example: `coxswain crews list --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = crew_pb2.ListCrewsRequest(page_size=min(limit, 1000))
        found = list(pages(client.crews.ListCrews, request, "crews", limit))
    if session.json:
        return session.print_json(found)
    made = Listing("name", ">revision", ">agents", ">tasks", "updated", "id")
    for crew in found:
        add_row(
            made,
            crew.spec.name,
            crew.revision,
            len(crew.spec.agents),
            len(crew.spec.tasks),
            When(crew.update_time),
            crew.id,
        )
    session.out.print(made)
    return None


@app.command()
def get(context: typer.Context, crew: CrewArgument, revision: RevisionOption = 0, as_json: JsonOption = False) -> None:
    """Show what a crew consists of: its agents, tasks and inputs.

    Example: `coxswain crews get brief`
    """
    session = session_of(context, as_json)
    found = _stored(session, crew, revision)
    if session.json:
        return session.print_json(found)
    spec = found.spec
    session.show(f"{spec.name}, revision {found.revision} of {found.update_time.ToDatetime():%Y-%m-%d %H:%M} UTC")
    if spec.description:
        session.show(spec.description)
    session.show(f"id         {found.id}")
    session.show(f"memory     {found.memory_id or 'off'}")
    session.show(f"inputs     {', '.join(found.input_names) or 'none'}")
    if found.changed_tools:
        session.show(f"its tools changed: {', '.join(found.changed_tools)}; `coxswain tool changes` shows how")
    agents, tasks = table("agent", "model", "role"), table("task", "agent", "what")
    for agent in spec.agents:
        add_row(agents, agent.name, agent.model or spec.model, " ".join(agent.role.split()))
    for task in spec.tasks:
        add_row(tasks, task.name, task.agent, " ".join(task.description.split()))
    session.out.print(agents)
    session.out.print(tasks)
    return None


@app.command()
def export(
    context: typer.Context, crew: CrewArgument, revision: RevisionOption = 0, as_json: JsonOption = False
) -> None:
    """Print a crew as a file that `coxswain apply` takes.

    Example: `coxswain crews export brief >crew.yaml`
    """
    session = session_of(context, as_json)
    spec = _stored(session, crew, revision).spec
    if session.json:
        return session.print_json(message_writer.document_of(spec))
    typer.echo(_file(spec), nl=False)
    return None


@app.command()
def diff(
    context: typer.Context,
    crew: Annotated[str, typer.Argument(metavar="CREW|FILE", help="A crew file, or a stored crew by name or id.")],
    revision: Annotated[
        int, typer.Option(min=0, help="Revision to compare with; by default the newest, or the one before it.")
    ] = 0,
) -> None:
    """Show what a file would change of the stored crew of its name, or what the newest revision of a crew changed.

    A number or a choice that the file leaves out counts as the stored one, because the server fills in its defaults.
    Exit code 1 means that there is a difference.

    Examples:

        coxswain crews diff crew.yaml

        coxswain crews diff brief --revision 3
    """
    session = session_of(context)
    if Path(crew).is_file():
        spec, title = crew_file.read_crew(crew).spec, crew
        old = _stored(session, spec.name, revision)
        _fill_in(spec, old.spec)
    else:
        new = _stored(session, crew, 0)
        spec, title = new.spec, f"{new.spec.name} r{new.revision}"
        old = _stored(session, new.id, revision or max(new.revision - 1, 1))
    before, after = _file(old.spec).splitlines(), _file(spec).splitlines()
    lines = list(difflib.unified_diff(before, after, f"{old.spec.name} r{old.revision}", title, lineterm=""))
    for line in lines:
        style = "bold" if line.startswith(("+++", "---")) else _STYLES.get(line[0], "")
        session.out.print(styled(session.safe(line), style), soft_wrap=True)
    if lines:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)
    session.say("no difference")


@app.command()
def publish(
    context: typer.Context,
    crew: CrewArgument,
    is_default: Annotated[
        bool | None, typer.Option("--default/--no-default", help="Whether it answers messages that name no agent.")
    ] = None,
    public_card: Annotated[
        bool | None,
        typer.Option("--public-card/--no-public-card", help="Whether anybody can read its card, without a credential."),
    ] = None,
    text_input: Annotated[
        str | None, typer.Option(help="Input that takes the text of messages; by default the only one it needs.")
    ] = None,
    file_input: Annotated[
        str | None, typer.Option(help="Input that takes files; without one, messages with files are refused.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let other systems call a crew as an agent, over A2A (editors). Options that are left out stay as they are.

    Examples:

        coxswain crews publish brief --default

        coxswain crews publish brief --text-input topic --public-card
    """
    session = session_of(context, as_json)
    given = {"is_default": is_default, "public_card": public_card, "text_input": text_input, "file_input": file_input}
    chosen = {name: value for name, value in given.items() if value is not None}
    with session.client() as client:
        stored = _update_publication(client, crew, {**chosen, "published": True})
        found = pages(client.crews.ListPublications, a2a_pb2.ListPublicationsRequest(page_size=1000), "publications")
        publication = next(one for one in found if one.crew_id == stored.id)
    if session.json:
        return session.print_json(publication)
    session.show(f"{stored.spec.name} published: revision {stored.revision}, tenant {publication.tenant}")
    return session.say(f"try it with: coxswain agents send {stored.spec.name} TEXT")


@app.command()
def unpublish(context: typer.Context, crew: CrewArgument, as_json: JsonOption = False) -> None:
    """Let other systems call a crew no more (editors). Published again, it has another tenant.

    Example: `coxswain crews unpublish brief`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        stored = _update_publication(client, crew, {"published": False})
    if session.json:
        return session.print_json({"unpublished": stored.id})
    return session.show(f"{stored.spec.name} unpublished: revision {stored.revision}")


@app.command()
def delete(
    context: typer.Context,
    crew: CrewArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a crew with all its revisions (editors). Asks first.

    Example: `coxswain crews delete brief --yes`
    """
    session = session_of(context, as_json)
    found = _stored(session, crew, 0)
    confirm(session, f"the crew {found.spec.name} with {found.revision} revisions", "delete", yes=yes)
    with session.client() as client:
        client.crews.DeleteCrew(crew_pb2.DeleteCrewRequest(id=found.id))
    if session.json:
        return session.print_json({"deleted": found.id})
    return session.show(f"{found.spec.name} deleted")


def _stored(session: Session, reference: str, revision: int) -> crew_pb2.Crew:
    request = crew_pb2.GetCrewRequest(revision=revision)
    request.MergeFrom(results.crew_key(reference))
    with session.client() as client:
        return client.crews.GetCrew(request).crew


def _update_publication(client: Client, reference: str, values: Mapping[str, Any]) -> crew_pb2.Crew:
    """Store a revision of a crew with other values of fields of its publication."""
    request = crew_pb2.GetCrewRequest()
    request.MergeFrom(results.crew_key(reference))
    found = client.crews.GetCrew(request).crew
    changed = a2a_pb2.A2ASpec()
    changed.CopyFrom(found.spec.a2a)
    for name, value in values.items():
        setattr(changed, name, value)
    update = crew_pb2.UpdateCrewRequest(
        id=found.id,
        spec=crew_pb2.CrewSpec(a2a=changed),
        update_mask=field_mask_pb2.FieldMask(paths=["a2a"]),
        expected_revision=found.revision,
    )
    return client.crews.UpdateCrew(update).crew


def _file(spec: crew_pb2.CrewSpec) -> str:
    return message_writer.yaml_of(message_writer.document_of(spec, crew_file.NAMED_PARTS))


def _fill_in(spec: Message, stored: Message) -> None:
    """Give a document of a file the numbers and choices that it leaves out and that the server has filled in."""
    for field, value in stored.ListFields():
        mine: Any = getattr(spec, field.name)
        if field.is_repeated:
            if field.message_type is not None and field.message_type.full_name in crew_file.NAMED_PARTS:
                by_name = {part.name: part for part in value}
                for part in mine:
                    if part.name in by_name:
                        _fill_in(part, by_name[part.name])
        elif field.message_type is not None:
            if spec.HasField(field.name):
                _fill_in(mine, value)
        elif field.cpp_type != field.CPPTYPE_STRING and mine == field.default_value:
            setattr(spec, field.name, value)
