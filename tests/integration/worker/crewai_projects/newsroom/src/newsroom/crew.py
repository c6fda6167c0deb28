from typing import Any

from crewai import Agent, Crew, Process, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.knowledge.source.text_file_knowledge_source import TextFileKnowledgeSource
from crewai.project import CrewBase, after_kickoff, agent, before_kickoff, crew, task
from crewai.tasks.task_output import TaskOutput

from newsroom.models import Page
from newsroom.tools.custom_tool import WordCountTool


def has_a_body(output: TaskOutput) -> tuple[bool, Any]:
    return (bool(output.raw.strip()), output.raw)


def announce(output: TaskOutput) -> None:
    print("done:", output.name)


@CrewBase
class Newsroom:
    """A newsroom."""

    agents: list[BaseAgent]
    tasks: list[Task]

    @before_kickoff
    def set_year(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs.setdefault("year", "2026")
        return inputs

    @after_kickoff
    def log_result(self, result: Any) -> Any:
        print(result)
        return result

    @agent
    def researcher(self) -> Agent:
        return Agent(
            config=self.agents_config["researcher"],  # type: ignore[index]
            tools=[WordCountTool()],
            knowledge_sources=[TextFileKnowledgeSource(file_paths=["style.txt"])],
            verbose=True,
        )

    @agent
    def editor(self) -> Agent:
        return Agent(config=self.agents_config["editor"], max_iter=5, verbose=True)  # type: ignore[index]

    @task
    def gather_task(self) -> Task:
        return Task(config=self.tasks_config["gather_task"], callback=announce)  # type: ignore[index]

    @task
    def page_task(self) -> Task:
        return Task(
            config=self.tasks_config["page_task"],  # type: ignore[index]
            output_pydantic=Page,
            guardrails=[has_a_body, "The page names no living person."],
            guardrail_max_retries=2,
            output_file="output/page.md",
        )

    @crew
    def crew(self) -> Crew:
        house_rules = StringKnowledgeSource(content="Count facts with numbers below thirteen in words.")
        return Crew(
            agents=self.agents,
            tasks=self.tasks,
            process=Process.sequential,
            memory=True,
            knowledge_sources=[house_rules],
            verbose=True,
        )
