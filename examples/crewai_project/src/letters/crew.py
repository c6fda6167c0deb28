"""A crew as `crewai create` lays it out."""

from crewai import Agent, Crew, Process, Task
from crewai.project import CrewBase, agent, crew, task


@CrewBase
class Letters:
    """Two people write a letter."""

    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"

    @agent
    def writer(self) -> Agent:
        return Agent(config=self.agents_config["writer"], max_iter=5, step_callback=print)

    @agent
    def editor(self) -> Agent:
        return Agent(config=self.agents_config["editor"])

    @task
    def draft(self) -> Task:
        return Task(config=self.tasks_config["draft_task"], agent=self.writer())

    @task
    def polish(self) -> Task:
        return Task(
            config=self.tasks_config["polish_task"],
            agent=self.editor(),
            context=[self.draft()],
            output_file="letter.md",
        )

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks, process=Process.sequential)
