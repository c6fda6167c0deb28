import os

from crewai import LLM, Agent, Crew, Process, Task
from crewai.project import CrewBase, agent, crew, llm, task
from crewai.tasks.conditional_task import ConditionalTask
from crewai.tasks.task_output import TaskOutput
from crewai.tools import tool


@tool("Tariff")
def tariff(kind: str) -> str:
    """The price of a kind of ticket."""
    return {"adult": "12", "child": "6"}.get(kind, "unknown")


def is_angry(output: TaskOutput) -> bool:
    return "angry" in output.raw


@CrewBase
class HelpDesk:
    """Answers letters."""

    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"

    @llm
    def fast(self) -> LLM:
        return LLM(model="openai/capable", temperature=0.1, timeout=60, api_key=os.environ["OPENAI_API_KEY"])

    def lead(self) -> Agent:
        return Agent(config=self.agents_config["lead"])

    @agent
    def clerk(self) -> Agent:
        return Agent(config=self.agents_config["clerk"], max_rpm=30, cache=True)

    @agent
    def accountant(self) -> Agent:
        return Agent(config=self.agents_config["accountant"], tools=[tariff], max_execution_time=300)

    @task
    def read_letter(self) -> Task:
        return Task(config=self.tasks_config["read_letter"], agent=self.clerk(), async_execution=True)

    @task
    def reckon_refund(self) -> Task:
        return Task(config=self.tasks_config["reckon_refund"], agent=self.accountant(), async_execution=True)

    @task
    def apologise(self) -> Task:
        return ConditionalTask(
            config=self.tasks_config["apologise"],
            agent=self.clerk(),
            condition=is_angry,
            context=[self.read_letter()],
        )

    @task
    def answer_letter(self) -> Task:
        return Task(
            config=self.tasks_config["answer_letter"],
            agent=self.clerk(),
            context=[self.read_letter(), self.reckon_refund(), self.apologise()],
            human_input=True,
        )

    @crew
    def crew(self) -> Crew:
        """The whole desk."""
        return Crew(
            agents=self.agents,
            tasks=self.tasks,
            process=Process.hierarchical,
            manager_agent=self.lead(),
            task_callback=print,
        )

    @crew
    def night_crew(self) -> Crew:
        """Reads only."""
        return Crew(agents=[self.clerk()], tasks=[self.read_letter()])
