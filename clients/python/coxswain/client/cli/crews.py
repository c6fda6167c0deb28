"""Commands about crews: apply, crews."""

from pathlib import Path
from typing import Annotated

import typer

from coxswain.client.blocking import Client
from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    Session,
    add_row,
    problem_table,
    session_of,
    table,
)
from coxswain.client.crew_file import CrewDocument, read_crew
from coxswain.client.crewai_project import load_crewai_project
from coxswain.client.documents import DocumentError, Problem
from coxswain.client.errors import InvalidArgument
from coxswain.client.paging import pages
from coxswain.client.results import AppliedCrew
from coxswain.orchestrator.v1.crew_pb2 import ListCrewsRequest, ValidateCrewRequest

FileOption = Annotated[
    Path,
    typer.Option("--file", "-f", help="Crew file (YAML or JSON), or the directory of a CrewAI project.", exists=True),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(apply)
    app.command()(crews)


def read(session: Session, path: Path, name: str = "", process: str = "sequential") -> CrewDocument:
    """The crew of a file or a CrewAI project; prints what a project has that is not imported."""
    if not path.is_dir():
        return read_crew(path)
    imported = load_crewai_project(path, name=name, process=process)
    if imported.notes:
        session.err.print(problem_table(imported.notes, f"{path}: not imported"))
    return CrewDocument(imported.spec, {})


def apply_document(client: Client, document: CrewDocument, path: Path) -> AppliedCrew:
    """Store a crew. Raises CoxswainError, and DocumentError with the lines of what the server refuses."""
    try:
        return client.apply_crew(document.spec)
    except InvalidArgument as error:
        if not error.violations:
            raise
        raise DocumentError(
            path,
            [
                Problem(violation.field, violation.description, document.line_of(violation.field))
                for violation in error.violations
            ],
        ) from error


def apply(
    context: typer.Context,
    file: FileOption,
    check: Annotated[bool, typer.Option("--check", help="Only report what is wrong; store nothing.")] = False,
    name: Annotated[
        str, typer.Option(help="Name for the crew of a CrewAI project; by default the name of its directory.")
    ] = "",
    process: Annotated[
        str, typer.Option(help="Process of a CrewAI project: sequential or hierarchical.")
    ] = "sequential",
    as_json: JsonOption = False,
) -> None:
    """Create a crew, or store a new revision of the one of that name.

    Examples:

        coxswain apply -f crew.yaml

        coxswain apply -f my_crewai_project/ --check
    """
    session = session_of(context, as_json)
    document = read(session, file, name, process)
    with session.client() as client:
        if check:
            return _check(session, client, document, file)
        applied = apply_document(client, document, file)
    crew = applied.crew
    if session.json:
        return session.print_json({"change": applied.change, "crew": crew})
    session.show(f"{crew.spec.name} {applied.change}: revision {crew.revision}, id {crew.id}")
    return None


def _check(session: Session, client: Client, document: CrewDocument, file: Path) -> None:
    found = client.crews.ValidateCrew(ValidateCrewRequest(spec=document.spec))
    if session.json:
        session.print_json(found)
    else:
        for title, faults in (("faults", found.faults), ("warnings", found.warnings)):
            if faults:
                placed = [Problem(fault.field, fault.description, document.line_of(fault.field)) for fault in faults]
                session.out.print(problem_table(placed, f"{file}: {title}"))
        if not found.faults:
            session.show(f"{document.spec.name} can run")
    if found.faults:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


def crews(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the group's crews, newest first.

    Example: `coxswain crews --json`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = ListCrewsRequest(page_size=min(limit, 1000))
        found = list(pages(client.crews.ListCrews, request, "crews", limit))
    if session.json:
        return session.print_json(found)
    made = table("name", ">revision", ">agents", ">tasks", "updated", "id")
    for crew in found:
        updated = crew.update_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
        add_row(made, crew.spec.name, crew.revision, len(crew.spec.agents), len(crew.spec.tasks), updated, crew.id)
    session.out.print(made)
    return None
