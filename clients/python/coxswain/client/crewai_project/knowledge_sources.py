"""Knowledge sources of a project as texts."""

import ast

from coxswain.client.crewai_project.class_reader import CrewClass, Keyword
from coxswain.client.crewai_project.expressions import Bound, Expressions, Unreadable, called
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.crewai_project.python_source import Sources
from coxswain.client.documents import Node
from coxswain.client.text_files import TextFileError, read_text

_MAX_TEXT_BYTES = 1024 * 1024


class _NotImported(Unreadable):
    """A source whose file has to be saved as a document."""


class KnowledgeSources:
    """Reads arguments that hold knowledge sources. What is not imported is noted."""

    def __init__(self, owner: CrewClass, sources: Sources, expressions: Expressions, notes: Notes) -> None:
        self._owner = owner
        self._sources = sources
        self._expressions = expressions
        self._notes = notes

    def read(self, path: str, keyword: Keyword) -> Node | None:
        """The texts of knowledge sources; other sources are noted."""
        found: list[Node] = []
        subject = f"{path}.knowledge_sources" if path else "knowledge_sources"
        try:
            items = self._expressions.items(keyword.value)
        except Unreadable:
            items = [keyword.value]
        for item in items:
            line = item.line if item.scope.module.file == keyword.file else keyword.line
            try:
                found += self._source(item, line, keyword.file, subject, len(found))
            except _NotImported as error:
                self._notes.add(
                    subject,
                    f"{error}: save its file with `coxswain memory document save FILE`, and put "
                    "memory: {kind: document} under knowledge in a crew file",
                    line,
                    keyword.file,
                )
            except Unreadable as error:
                self._notes.add(subject, f"{error}: put the text under knowledge in a crew file", line, keyword.file)
        return Node([*found], keyword.line, None, keyword.file) if found else None

    def _source(self, item: Bound, line: int, file: str, subject: str, count: int) -> list[Node]:
        bound = self._expressions.follow(item)
        kind = called(bound.expression, bound.scope.module)
        if not isinstance(bound.expression, ast.Call) or kind not in {
            "StringKnowledgeSource",
            "TextFileKnowledgeSource",
        }:
            raise _NotImported(f"{kind or 'this source'} is not imported")
        said = {one.arg: one.value for one in bound.expression.keywords}
        wanted = "content" if kind == "StringKnowledgeSource" else "file_paths" if "file_paths" in said else "file_path"
        for other in said.keys() - {wanted}:
            self._notes.add(f"{subject}.{other}", "how texts are cut and stored is fixed: nothing to do", line, file)
        if wanted not in said:
            raise Unreadable(f"{kind} without {wanted}")
        value = self._expressions.value(Bound(said[wanted], bound.scope))
        if wanted == "content":
            if not isinstance(value.value, str):
                raise Unreadable(f"{wanted} is no text")
            return [_text_of_knowledge(f"text-{count + 1}", value.value, line, file)]
        paths = value.value if isinstance(value.value, list) else [value]
        return [_text_of_knowledge(str(one.value), self._file(str(one.value)), line, file) for one in paths]

    def _file(self, name: str) -> str:
        # CrewAI looks in the directory `knowledge` of the project.
        places = [self._sources.root / "knowledge", self._owner.module.path.parent / "knowledge", self._sources.root]
        path = next((place / name for place in places if self._sources.holds(place / name)), None)
        if path is None:
            raise Unreadable(f"the file {name} is not in the project")
        try:
            return read_text(path, _MAX_TEXT_BYTES).text
        except (OSError, TextFileError) as error:
            raise Unreadable(f"the file {name} cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2]


def _text_of_knowledge(name: str, content: str, line: int, file: str) -> Node:
    return Node({"name": Node(name, line, name, file), "content": Node(content, line, content, file)}, line, None, file)
