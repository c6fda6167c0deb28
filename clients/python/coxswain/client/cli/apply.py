"""The command that stores crews: apply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    Session,
    problem_table,
    session_of,
)
from coxswain.client.later import crew_file, crew_pb2, crewai_project, documents, errors, results

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

FileOption = Annotated[Path | None, typer.Option("--file", "-f", help="The same as PATH.", exists=True)]


def read(
    session: Session,
    path: Path,
    name: str = "",
    process: str = "",
    crew_class: str = "",
    tools: dict[str, str] | None = None,
) -> crew_file.CrewDocument:
    """The crew of a file or a CrewAI project; prints what of a project is not taken over."""
    if not path.is_dir():
        return crew_file.read_crew(path)
    imported = crewai_project.load_crewai_project(path, name=name, process=process, crew_class=crew_class, tools=tools)
    if imported.notes:
        session.err.print(problem_table(imported.notes, f"{path}: not taken over"))
    return imported.document


def apply_document(
    client: Client, document: crew_file.CrewDocument, path: Path, *, carry_memories: bool = False
) -> results.AppliedCrew:
    """Store a crew. Raises CoxswainError, and DocumentError with the lines of what the server refuses."""
    try:
        return client.apply_crew(document.spec, carry_memories=carry_memories)
    except errors.InvalidArgument as error:
        if not error.violations:
            raise
        problems = [document.problem(violation.field, violation.description) for violation in error.violations]
        raise documents.DocumentError(path, problems) from error


def apply(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH", help="Crew file (YAML or JSON), or the directory of a CrewAI project.", exists=True
        ),
    ] = None,
    file: FileOption = None,
    check: Annotated[bool, typer.Option("--check", help="Only report what is wrong; store nothing.")] = False,
    name: Annotated[
        str, typer.Option(help="Name for the crew of a CrewAI project; by default the name of its directory.")
    ] = "",
    process: Annotated[
        str, typer.Option(help="Process of a CrewAI project, sequential or hierarchical, instead of its own.")
    ] = "",
    crew_class: Annotated[
        str,
        typer.Option(
            help="Class of a CrewAI project to take, of several; CLASS.METHOD for one of several crews of a class."
        ),
    ] = "",
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--tool",
            metavar="CLASS=NAME",
            help="Tool of the server that stands for a class of tools of a CrewAI project. Repeatable.",
        ),
    ] = None,
    carry_memories: Annotated[
        bool,
        typer.Option(
            "--carry-memories",
            help="Copy what the crew remembers where the change gives it another memory, or its latest change did.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a crew, or store a new revision of the one of that name.

    Examples:

        coxswain apply -f crew.yaml

        coxswain apply my_crewai_project/ --check

        coxswain apply my_crewai_project/ --tool SerperDevTool=search
    """
    session = session_of(context, as_json)
    if (path is None) == (file is None):
        raise typer.BadParameter("give one crew file or directory", param_hint="PATH")
    place = path or file or Path()
    document = read(session, place, name, process, crew_class, _counterparts(tools))
    with session.client() as client:
        if check:
            return _check(session, client, document, place)
        applied = apply_document(client, document, place, carry_memories=carry_memories)
    crew = applied.crew
    if session.json:
        told = {"warnings": list(applied.warnings)} if applied.warnings else {}
        return session.print_json({"change": applied.change, "crew": crew, **told})
    if applied.warnings:
        placed = [document.problem(warning.field, session.own(warning.description)) for warning in applied.warnings]
        session.err.print(problem_table(placed, f"{place}: warnings"))
    if applied.carried_memories:
        session.say(f"copied {applied.carried_memories:,} memories")
    session.show(f"{crew.spec.name} {applied.change}: revision {crew.revision}, id {crew.id}")
    return None


def _counterparts(given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or []:
        kind, sign, name = text.partition("=")
        if not (kind and sign and name):
            raise typer.BadParameter(f"{text!r}: write CLASS=NAME, such as SerperDevTool=search", param_hint="--tool")
        pairs[kind] = name
    return pairs


def _check(session: Session, client: Client, document: crew_file.CrewDocument, file: Path) -> None:
    found = client.crews.ValidateCrew(crew_pb2.ValidateCrewRequest(spec=document.spec))
    if session.json:
        session.print_json(found)
    else:
        for title, faults in (("faults", found.faults), ("warnings", found.warnings)):
            if faults:
                placed = [document.problem(fault.field, session.own(fault.description)) for fault in faults]
                session.out.print(problem_table(placed, f"{file}: {title}"))
        if not found.faults:
            session.show(f"{document.spec.name} can run")
    if found.faults:
        raise typer.Exit(EXIT_NOT_SUCCEEDED)
