"""CrewAI's classes, with what they do on their own account taken out."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crewai import Agent, Crew, Task
from crewai.agents.agent_executor import AgentExecutor
from crewai.hooks.dispatch import HookAborted
from crewai.tasks.llm_guardrail import LLMGuardrail, LLMGuardrailResult
from crewai.tasks.task_output import TaskOutput
from crewai.tools.agent_tools.agent_tools import AgentTools
from crewai.utilities.converter import Converter
from crewai.utilities.i18n import I18N_DEFAULT
from crewai.utilities.prompts import SystemPromptResult
from crewai.utilities.reasoning_handler import AgentReasoning
from pydantic import BaseModel, PrivateAttr

from services.orchestrator.output_checks import Check
from services.orchestrator.worker.crew.agent_loop import AgentLoop
from services.orchestrator.worker.crew.deadline import time_limit
from services.orchestrator.worker.crew.usable_answers import Unusable, schema_reader

_MANAGER_TEXTS = ("role", "goal", "backstory")


class _Coworkers(set[str]):
    """Names of those who were delegated to. CrewAI notes what a model gives before it looks whether that is a name."""

    def add(self, name: object) -> None:
        super().add(str(name))


class CrewAgent(Agent):
    """An agent that keeps to its time and looks knowledge up by the task's own words."""

    executor_class: type[AgentExecutor] = AgentLoop
    use_better_compaction: bool = False
    """Long results of tools would go through files, which a crew process cannot write."""

    _time_limit: float | None = PrivateAttr(default=None)
    _plans: bool = PrivateAttr(default=False)
    _date: str = PrivateAttr(default="")
    # Plans by the description of their tasks: a task that is tried again keeps its own.
    _planned: dict[str, str] = PrivateAttr(default_factory=dict)

    def execute_task(self, task: Any, context: str | None = None, tools: list[Any] | None = None) -> Any:
        """Do a task, for a coworker perhaps, within the agent's time.

        CrewAI's own max_execution_time waits for the model to answer before it gives up.
        """
        llm: Any = self.llm
        task.processed_by_agents = _Coworkers(task.processed_by_agents)
        with time_limit(self._time_limit), llm.attempt.occurrences.run(task.id), self._extended_by_plan(task):
            return super().execute_task(task, context, tools)

    @contextlib.contextmanager
    def _extended_by_plan(self, task: Any) -> Iterator[None]:
        """Extend the description of a task, while it is done, by a plan if this agent makes plans.

        CrewAI's own planning asks until the model is ready, and then does each step in a conversation of its own.
        """
        if not self._plans:
            yield
            return
        own = task.description
        if own not in self._planned:
            self._planned[own] = self._plan(task)
        task.description = f"{own}\n\nPlanning:\n{self._planned[own]}"
        try:
            yield
        finally:
            task.description = own

    def _plan(self, task: Any) -> str:
        planner: Any = AgentReasoning(agent=self, task=task)
        answer = planner.llm.call(
            [
                {"role": "system", "content": planner._get_system_prompt()},  # noqa: SLF001 - CrewAI's words
                {"role": "user", "content": planner._create_planning_prompt()},  # noqa: SLF001
            ],
            from_task=task,
            from_agent=self,
        )
        plan, _ready = planner._parse_planning_response(str(answer))  # noqa: SLF001
        return str(plan)

    def _build_execution_prompt(self, raw_tools: list[Any]) -> tuple[Any, list[str], Any]:
        """Put the date of the execution where CrewAI puts the present one."""
        prompt, stop_words, rpm_limit = super()._build_execution_prompt(raw_tools)
        if self._date:
            date_text = f"\n\nCurrent Date: {self._date}"
            prompt.prompt += date_text
            if isinstance(prompt, SystemPromptResult):
                prompt.system += date_text
        return prompt, stop_words, rpm_limit

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


class JudgedTask(Task):
    """A task whose guardrail sees the object that the result stands for.

    CrewAI reads a text as its object only where no guardrail follows, or where that returns a text.
    """

    def _invoke_guardrail_function(self, task_output: TaskOutput, *args: Any, **kwargs: Any) -> TaskOutput:
        if task_output.pydantic is None:
            task_output.pydantic, task_output.json_dict = self._export_output(task_output.raw)
        return super()._invoke_guardrail_function(task_output, *args, **kwargs)


class ToldConverter(Converter):
    """Turns a result into the object that its task asks for. The model is told what is wrong with the result."""

    def to_pydantic(self, current_attempt: int = 1) -> BaseModel:  # noqa: ARG002 - tried again by the model's class
        """Return the object; the task ends when the model does not give it."""
        try:
            return schema_reader(self.model)(self.text)
        except Unusable as error:
            messages = [
                {"role": "system", "content": self.instructions},
                {"role": "user", "content": self.text},
                {"role": "user", "content": error.request},
            ]
        found: BaseModel = self.llm.structured(messages, self.model, is_result=True)
        return found


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


class ResultGuardrail:
    """All that a result has to pass, as one guardrail: what was changed for one condition has to meet the rest."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        conditions: Mapping[str, ModelGuardrail],
        refused: Callable[[list[str], str, str], object],
    ) -> None:
        """Both are named by their fields in the crew's document.

        `refused` is told which ones failed, why, and what the result was.
        """
        self._checks = checks
        self._conditions = conditions
        self._refused = refused

    # CrewAI copies tasks.
    def __deepcopy__(self, _memo: dict[int, Any]) -> "ResultGuardrail":
        return self

    def judge(self, task_output: TaskOutput) -> tuple[bool, Any]:
        """Return whether the result is good, and the result or what is wrong with it."""
        failed = self._failed_checks(task_output) or self._failed_condition(task_output)
        if not failed:
            return True, task_output
        message = "\n".join(failed.values())
        self._refused(list(failed), message, task_output.raw)
        return False, message

    def _failed_checks(self, output: TaskOutput) -> dict[str, str]:
        structured = None if output.pydantic is None else output.pydantic.model_dump(mode="json", by_alias=True)
        results = {field: check(output.raw, structured) for field, check in self._checks.items()}
        return {field: wrong for field, wrong in results.items() if wrong}

    def _failed_condition(self, output: TaskOutput) -> dict[str, str]:
        """Ask about one condition after the other: each costs a model call."""
        for field, condition in self._conditions.items():
            good, verdict = condition(output)
            if not good:
                return {field: str(verdict)}
        return {}
