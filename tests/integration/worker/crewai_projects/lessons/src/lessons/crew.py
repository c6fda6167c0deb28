"""A crew whose texts stand in the code."""

from enum import Enum
from textwrap import dedent
from typing import Optional

from crewai import Agent, Crew, Process, Task
from crewai.project import CrewBase, agent, crew, task
from pydantic import BaseModel, field_validator

from lessons.settings import LEVELS, MODEL_NAME


class Level(str, Enum):
    EASY = "easy"
    HARD = "hard"


class Question(BaseModel):
    text: str
    level: Level
    hint: Optional[str] = None

    @field_validator("text")
    @classmethod
    def ends_with_a_mark(cls, value: str) -> str:
        if not value.endswith("?"):
            raise ValueError("a question ends with a question mark")
        return value


class Quiz(BaseModel):
    title: str
    questions: list[Question]


class Staff:
    @agent
    def teacher(self) -> Agent:
        return Agent(
            role="Teacher of {subject}",
            goal="Explain {subject}",
            backstory=dedent(
                """
                You have taught {subject} for years,
                at every level.
                """
            ),
            llm=MODEL_NAME,
            allow_delegation=True,
        )

    @agent
    def examiner(self) -> Agent:
        return Agent(role="Examiner", goal="Ask good questions", backstory="You are fair.", llm=MODEL_NAME)


@CrewBase
class Lessons(Staff):
    @task
    def explain(self) -> Task:
        return Task(
            description="Explain {subject} for these levels: " + LEVELS,
            expected_output="An explanation",
            agent=self.teacher(),
        )

    @task
    def quiz(self) -> Task:
        return Task(
            name="quiz",
            description="Make a quiz from the explanation.",
            expected_output="A quiz",
            agent=self.examiner(),
            output_pydantic=Quiz,
        )

    @task
    def summary(self) -> Task:
        return Task(
            description="Sum it all up.",
            expected_output="A summary",
            agent=Agent(role="Scribe", goal="Be brief", backstory="You write small.", llm=MODEL_NAME),
            context=[self.explain(), self.quiz()],
        )

    @crew
    def crew(self) -> Crew:
        return Crew(
            agents=self.agents,
            tasks=[self.explain(), self.quiz(), self.summary()],
            process=Process.sequential,
            name="evening lessons",
        )
