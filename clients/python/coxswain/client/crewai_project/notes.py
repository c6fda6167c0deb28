"""What of a project does not come over, each thing once."""

from dataclasses import dataclass, field, replace

from coxswain.client.documents import Node, Problem


@dataclass
class Notes:
    """Notes about settings, and about things that occur at many places."""

    _single: dict[tuple[str, str, int], Problem] = field(default_factory=dict)
    _shared: dict[tuple[str, str], tuple[str, dict[int, None]]] = field(default_factory=dict)

    def add(self, subject: str, description: str, line: int, file: str) -> None:
        """Note a setting, once a line. ``subject`` is its field path, such as ``agents.writer.callback``."""
        self._single.setdefault((subject, file, line), Problem(subject, description, line, file))

    def at(self, subject: str, description: str, node: Node) -> None:
        """Note a setting where its value stands."""
        self.add(subject, description, node.line, node.file)

    def shared(self, subject: str, description: str, line: int, file: str) -> None:
        """Note something that occurs often, such as a class of tools: one note for a file, with all its lines."""
        self._shared.setdefault((subject, file), (description, {}))[1][line] = None

    def about(self, subject: str) -> Problem | None:
        """The first note of a setting."""
        return next((note for note in self._single.values() if note.field == subject), None)

    def extend(self, note: Problem, more: str) -> None:
        """Say more about a setting that is noted already."""
        key = (note.field, note.file, note.line)
        self._single[key] = replace(note, description=f"{note.description}; {more}")

    @property
    def all(self) -> tuple[Problem, ...]:
        """Every note, by file and line."""
        notes = list(self._single.values())
        for (subject, file), (description, lines) in self._shared.items():
            first, *others = sorted(lines)
            also = f" (also in line{'s' if len(others) > 1 else ''} {', '.join(map(str, others))})" if others else ""
            notes.append(Problem(subject, description + also, first, file))
        return tuple(sorted(notes, key=lambda note: (note.file, note.line)))
