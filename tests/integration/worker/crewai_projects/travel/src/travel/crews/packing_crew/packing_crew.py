from crewai import Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, task
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    count: int = 1


class PackingList(BaseModel):
    items: list[Item]


@CrewBase
class PackingCrew:
    """Packs."""

    @agent
    def packer(self) -> Agent:
        return Agent(config=self.agents_config["packer"])

    @task
    def pack(self) -> Task:
        return Task(config=self.tasks_config["pack"], output_json=PackingList)

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)
