"""Writes CrewAI projects: two agents, two tasks, and a class that tests change."""

from pathlib import Path

AGENTS = """\
writer:
  role: Writer
  goal: Write
  backstory: Old
editor:
  role: Editor
  goal: Edit
  backstory: Older
"""
TASKS = """\
draft:
  description: Draft {topic}
  expected_output: A draft

polish:
  description: Polish it
  expected_output: A text
"""
CODE = """\
from typing import List

from crewai import LLM, Agent, Crew, Process, Task
from crewai.project import CrewBase, agent, crew, task
from pydantic import BaseModel


@CrewBase
class Notes:
    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"

    @agent
    def writer(self) -> Agent:
        return Agent(config=self.agents_config["writer"])

    @agent
    def editor(self) -> Agent:
        return Agent(config=self.agents_config["editor"])

    @task
    def draft(self) -> Task:
        return Task(config=self.tasks_config["draft"], agent=self.writer())

    @task
    def polish(self) -> Task:
        return Task(config=self.tasks_config["polish"], agent=self.editor())

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)
"""
WRITER = 'Agent(config=self.agents_config["writer"])'
DRAFT = 'Task(config=self.tasks_config["draft"], agent=self.writer())'
POLISH = 'Task(config=self.tasks_config["polish"], agent=self.editor())'
CREW = "Crew(agents=self.agents, tasks=self.tasks)"


def write_project(
    directory: Path,
    *changes: tuple[str, str],
    agents: str = AGENTS,
    tasks: str = TASKS,
    code: str = CODE,
    files: dict[str, str] | None = None,
) -> Path:
    """A project in the usual layout, with texts of its code replaced; each must occur in it. Returns the directory."""
    for old, new in changes:
        assert old in code, old
        code = code.replace(old, new)
    home = directory / "src" / "notes"
    (home / "config").mkdir(parents=True, exist_ok=True)
    (directory / "pyproject.toml").write_text('[project]\nname = "notes"\n', encoding="utf-8")
    (home / "config" / "agents.yaml").write_text(agents, encoding="utf-8")
    (home / "config" / "tasks.yaml").write_text(tasks, encoding="utf-8")
    (home / "crew.py").write_text(code, encoding="utf-8")
    for name, text in (files or {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


def line_of(directory: Path, text: str, file: str = "src/notes/crew.py") -> int:
    """The line, from 1, in which a text first occurs."""
    return next(
        number
        for number, line in enumerate((directory / file).read_text(encoding="utf-8").splitlines(), start=1)
        if text in line
    )
