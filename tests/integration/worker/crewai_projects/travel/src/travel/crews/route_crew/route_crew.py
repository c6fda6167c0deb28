from crewai import Agent, Crew, Process, Task
from crewai.project import CrewBase, agent, crew, task
from crewai_tools import SerperDevTool


@CrewBase
class RouteCrew:
    """Finds routes."""

    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"

    @agent
    def guide(self) -> Agent:
        return Agent(config=self.agents_config["guide"], tools=[SerperDevTool()])

    @task
    def find_route(self) -> Task:
        return Task(config=self.tasks_config["find_route"])

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks, process=Process.sequential, verbose=True)
