"""CrewAI's classes, with what they do on their own account taken out."""

from typing import Any

from crewai import Agent, Crew
from crewai.hooks.dispatch import HookAborted
from crewai.tasks.llm_guardrail import LLMGuardrail, LLMGuardrailResult
from crewai.tasks.task_output import TaskOutput
from crewai.tools.agent_tools.agent_tools import AgentTools
from crewai.utilities.i18n import I18N_DEFAULT
from pydantic import PrivateAttr

from services.orchestrator.worker.crew.deadline import time_limit

_MANAGER_TEXTS = ("role", "goal", "backstory")


class CrewAgent(Agent):
    """An agent that keeps to its time and looks knowledge up by the task's own words."""

    _time_limit: float | None = PrivateAttr(default=None)

    def execute_task(self, task: Any, context: str | None = None, tools: list[Any] | None = None) -> Any:
        """Do a task, for a coworker perhaps, within the agent's time.

        CrewAI's own max_execution_time waits for the model to answer before it gives up.
        """
        llm: Any = self.llm
        with time_limit(self._time_limit), llm.attempt.occurrences.run(task.id):
            return super().execute_task(task, context, tools)

    def _get_knowledge_search_query(self, task_prompt: str, task: Any) -> str | None:  # noqa: ARG002
        """Search with the task's description; CrewAI would have a model rewrite the whole prompt."""
        return str(task.description)


class _NoOutputs:
    """CrewAI keeps outputs in an SQLite file that all its crews share and each empties; ours are rows."""

    def reset(self) -> None:
        pass

    def update(self, *_: Any, **__: Any) -> None:
        pass


class OneTaskCrew(Crew):
    """A crew that leaves nothing on disk, and whose manager is an agent of ours too."""

    _task_output_handler: Any = PrivateAttr(default_factory=_NoOutputs)

    def _create_manager_agent(self) -> None:
        if self.manager_agent is None:
            self.manager_agent = CrewAgent(
                **{name: I18N_DEFAULT.retrieve("hierarchical_manager_agent", name) for name in _MANAGER_TEXTS},
                tools=AgentTools(agents=self.agents).tools(),
                allow_delegation=True,
                llm=self.manager_llm,
            )
        super()._create_manager_agent()


class ModelGuardrail(LLMGuardrail):
    """A condition judged by a model. When the model cannot be reached the task ends: that is not a verdict."""

    def __call__(self, task_output: TaskOutput) -> tuple[bool, Any]:
        """Return whether the result meets the condition, and the result or what is wrong with it."""
        try:
            verdict = self._validate_output(task_output).pydantic
        except HookAborted:
            raise
        except ValueError as error:  # an answer without a verdict counts as a refusal: the task is tried again
            return False, f"the guardrail returned no verdict: {error}"
        if not isinstance(verdict, LLMGuardrailResult):
            return False, "the guardrail returned no verdict"
        return (True, task_output.raw) if verdict.valid else (False, verdict.feedback or "refused without a reason")
