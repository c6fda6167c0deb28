"""CrewAI projects as crews.

Reads ``agents.yaml``, ``tasks.yaml`` and the ``@CrewBase`` class, which is never run; or ``crew.jsonc`` with the files
of its agents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coxswain.client.crew_file import CrewDocument
from coxswain.client.crewai_project.builder import Builder
from coxswain.client.crewai_project.json_builder import JsonBuilder
from coxswain.client.crewai_project.layout import Layout
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.documents import DocumentError, Problem
from coxswain.orchestrator.v1.crew_pb2 import CrewSpec


@dataclass(frozen=True, slots=True)
class ImportedCrew:
    """A crew made from a CrewAI project."""

    document: CrewDocument
    """The crew, with the file and the line of its parts."""
    notes: tuple[Problem, ...]
    """What of the project is not in the crew: its field path, file, line and what to do instead."""

    @property
    def spec(self) -> CrewSpec:
        """The crew."""
        return self.document.spec


def load_crewai_project(
    directory: Path | str,
    *,
    name: str = "",
    process: str = "",
    crew_class: str = "",
    tools: Mapping[str, str] | None = None,
) -> ImportedCrew:
    """The crew of a CrewAI project directory, of the directory of one of its crews, or of its ``config``.

    Agents and tasks are named as their methods, or, without a class, as their keys. What the class says goes before
    the YAML files. ``name`` and ``process`` ("sequential" or "hierarchical") go before both; a crew without a name has
    that of its directory. ``crew_class`` chooses one of several classes, or, as ``Class.method``, one of several crews
    of a class. ``tools`` says which tool of the server stands for a class of tools: ``{"SerperDevTool": "search"}``.

    Raises OSError when there is no crew, and DocumentError, with files and lines, when there are several, when the code
    is not Python, or when no valid crew comes out.
    """
    given = Path(directory)
    try:
        layout = Layout(given)
        home = layout.home(crew_class)
        notes = Notes()
        builder = Builder if home.described is None else JsonBuilder
        document = builder(home, given, layout.sources, notes, tools or {}).document(name, process)
    except RecursionError:
        raise DocumentError(given, [Problem("", "the code is nested too deeply to be read")]) from None
    return ImportedCrew(document, (*notes.all, *layout.flows()))
