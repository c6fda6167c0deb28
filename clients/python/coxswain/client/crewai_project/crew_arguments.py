"""Arguments of ``Crew(...)`` as fields of a crew."""

import ast
from dataclasses import replace

from coxswain.client.crewai_project import fields
from coxswain.client.crewai_project.class_reader import Built, Keyword
from coxswain.client.crewai_project.expressions import Expressions, Unreadable
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.crewai_project.translation import Translation, is_nothing
from coxswain.client.documents import Node

_REMEDIES = {
    "process": "give it with --process",
    "manager_agent": "write a method that returns Agent(...) and call it here",
    "memory": "write memory=True or memory=Memory(...), or memory in a crew file",
    "planning": "write planning=True",
    "name": "give it with --name",
}


class CrewArguments:
    """Reads what ``Crew(...)`` says. What has no counterpart is noted."""

    def __init__(self, translation: Translation, expressions: Expressions, notes: Notes) -> None:
        self._translation = translation
        self._expressions = expressions
        self._notes = notes

    def read(self, crew: Built) -> dict[str, Node]:
        """The fields of the crew. Agents and tasks are not among them."""
        made: dict[str, Node] = {}
        for key, keyword in crew.keywords.items():
            if key in {"agents", "tasks"} or is_nothing(keyword):
                continue
            try:
                self._value(made, key, keyword)
            except Unreadable as error:
                self._notes.add(
                    f"crew.{key}", f"{error}: {_REMEDIES.get(key, fields.remedy(key))}", keyword.line, keyword.file
                )
        return made

    def _value(self, made: dict[str, Node], key: str, keyword: Keyword) -> None:
        subject = f"crew.{key}"
        match key:
            case "process":
                made["process"] = self._process(keyword)
            case "manager_llm" | "planning_llm":
                found = self._translation.model_name(subject, keyword)
                if found is not None:
                    made[key.replace("_llm", "_model")] = found
            case "manager_agent":
                # Not in the list of the crew's agents: CrewAI refuses a manager that is.
                name = self._translation.agent_of("manager", keyword)
                made[key] = Node(name, keyword.line, name, keyword.file)
            case "memory" if (settings := self._translation.memory(keyword)) is not None:
                made["memory"] = settings
            case "memory" | "planning" | "name":
                node = self._expressions.value(keyword.value)
                if not isinstance(node.value, str if key == "name" else bool):
                    raise Unreadable("this is no plain value")
                made[key] = replace(node, line=keyword.line, file=keyword.file)
            case "knowledge_sources":
                texts = self._translation.knowledge.read("crew", keyword)
                if texts is not None:
                    made["knowledge"] = texts
            case _:
                self._translation.without_counterpart(subject, key, keyword)

    def _process(self, keyword: Keyword) -> Node:
        bound = self._expressions.follow(keyword.value)
        match bound.expression:
            case ast.Attribute(attr=("sequential" | "hierarchical") as word):
                return Node(word, keyword.line, word, keyword.file)
            case ast.Constant(value=("sequential" | "hierarchical") as word):
                return Node(word, keyword.line, word, keyword.file)
        raise Unreadable("decided at run time")
