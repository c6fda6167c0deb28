"""What is wrong with a crew, in words of the project it comes from."""

from collections.abc import Iterator
from dataclasses import replace

from coxswain.client.crewai_project import fields
from coxswain.client.crewai_project.class_reader import CrewClass
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.documents import Node, Problem

Part = dict[str, Node]


def without_agent(tasks: Part, agents: Part, notes: Notes, owner: CrewClass | None) -> Iterator[Problem]:
    """A problem for each task without agent, with what the notes say about it."""
    for name, node in tasks.items():
        assert isinstance(node.value, dict)
        agent = node.value.get("agent")
        if agent is not None and agent.value:
            continue
        note = notes.about(f"tasks.{name}.agent")
        cause = f" ({note.file}:{note.line}: {note.description})" if note else ""
        example = next(iter(agents), "NAME")
        code = f" or agent=self.{example}() in {owner.module.file}" if owner else ""
        mend = f"no agent{cause}: write `agent: NAME` here{code}; the agents are {', '.join(agents) or 'none'}"
        yield Problem(f"tasks.{name}.agent", mend, node.line, node.file)


def explained(problem: Problem, agents: Part, tasks: Part, notes: Notes) -> Problem:
    """A problem with the note about its field: ``role must not be empty``, as it is put together at run time."""
    for what, parts, names in (
        ("agents", agents, fields.AGENT_FIELDS),
        ("tasks", tasks, fields.TASK_FIELDS),
    ):
        for index, name in enumerate(parts):
            start = f"{what}[{index}]."
            if problem.field.startswith(start):
                field = problem.field.removeprefix(start)
                theirs = next((key for key, ours in names.items() if ours == field), field)
                note = notes.about(f"{what}.{name}.{theirs}")
                cause = f" ({note.file}:{note.line}: {note.description})" if note else ""
                return replace(problem, description=f"{name}: {problem.description}{cause}")
    return problem
