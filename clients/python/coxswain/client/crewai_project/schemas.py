"""JSON schemas of the pydantic classes of a project, read from their code."""

from dataclasses import dataclass, field

from coxswain.client.crewai_project.expressions import Bound, Expressions, Unreadable, dotted
from coxswain.client.crewai_project.python_source import Sources
from coxswain.client.crewai_project.schema_maker import SchemaMaker, missing
from coxswain.client.crewai_project.schema_types import Schema


@dataclass(eq=False)
class OutputSchema:
    """The schema of one class."""

    schema: Schema
    """JSON schema of type "object"."""
    unread: list[tuple[str, int, str]] = field(default_factory=list)
    """What the schema does not say: a sentence, the line and the file."""


class Schemas:
    """Makes schemas. The classes stand in the file that names them, or in another file of the project."""

    def __init__(self, sources: Sources, expressions: Expressions) -> None:
        self._sources = sources
        self._expressions = expressions

    def of(self, bound: Bound) -> OutputSchema:
        """The schema of the class that an expression names. Raises Unreadable with the reason."""
        maker = SchemaMaker(self._sources, self._expressions)
        name = _class_name(bound)
        found = self._sources.find(bound.scope.module, name)
        if found is None:
            raise Unreadable(missing(name, bound.scope.module))
        module, name = found
        if name not in module.classes:
            # A variable that stands for a class.
            further = self._expressions.follow(bound)
            if further is bound:
                raise Unreadable(f"{name} is no class")
            return self.of(further)
        if not maker.is_model(module, module.classes[name]):
            raise Unreadable(f"{name} is not made from pydantic's BaseModel")
        schema = maker.root(module, module.classes[name])
        return OutputSchema(schema, maker.unread)


def _class_name(bound: Bound) -> str:
    name = dotted(bound.expression)
    if not name:
        raise Unreadable("this does not name a class")
    return name
