"""The configuration adapter: from a crew's document to CrewAI's objects, for one task at a time.

The shape of a one-task crew is what makes its prompts the same as those of the whole crew: earlier results come as
context tasks that have their output already, and only the agents the task can involve are built.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crewai import Process as CrewProcess
from crewai import Task
from crewai.knowledge.knowledge import Knowledge
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.tasks.task_output import TaskOutput
from crewai.utilities.i18n import I18N_DEFAULT
from pydantic import BaseModel

from coxswain.orchestrator.worker.link_pb2 import EarlierTask, Revision
from services.orchestrator.domain.crew import AgentSpec, KnowledgeSpec, OutputCheck, Process, TaskSpec
from services.orchestrator.output_checks import compile_check
from services.orchestrator.placeholders import interpolate
from services.orchestrator.worker.crew.agent_date import date_for
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.crewai_types import (
    CrewAgent,
    JudgedTask,
    ModelGuardrail,
    OneTaskCrew,
    ResultGuardrail,
    ToldConverter,
)
from services.orchestrator.worker.crew.knowledge import KnowledgeStorage
from services.orchestrator.worker.crew.llm import HostLLM
from services.orchestrator.worker.crew.memory import AnalysedMemory, ResultMemory
from services.orchestrator.worker.crew.result_class import result_class
from services.orchestrator.worker.crew.tools.factory import build_tools
from services.orchestrator.worker.link.errors import TaskError


@dataclass(frozen=True, slots=True)
class BuiltTask:
    """A task ready to run."""

    crew: OneTaskCrew
    task: Task
    memory: ResultMemory | AnalysedMemory | None


def build_task(
    attempt: TaskAttempt, *, context: Sequence[EarlierTask], plan: str = "", revision: Revision | None = None
) -> BuiltTask:
    """Return the one-task crew of an attempt. `context` is the results the task gets, in the crew's order.

    Raises:
        TaskError: the crew cannot be built as it is described.
    """
    return _Builder(attempt).build(context, plan, revision)


class _Builder:
    def __init__(self, attempt: TaskAttempt) -> None:
        self._attempt = attempt
        self._session = attempt.session
        self._spec = attempt.session.spec

    def build(self, context: Sequence[EarlierTask], plan: str, revision: Revision | None) -> BuiltTask:
        spec = self._spec.tasks[self._attempt.index]
        hierarchical = self._spec.process is Process.HIERARCHICAL
        manager_spec = self._session.agent(self._spec.manager_agent) if self._spec.manager_agent else None
        agents = {
            agent.name: self.build_agent(agent)
            for agent in self._specs_for(spec, hierarchical)
            if agent is not manager_spec
        }
        manager = self.build_agent(manager_spec) if manager_spec else None
        any_agent = manager or next(iter(agents.values()))
        task = JudgedTask(
            name=spec.name,
            description=self.text(spec.description) + plan + _revision_text(revision),
            expected_output=self.text(spec.expected_output),
            agent=agents.get(spec.agent),
            context=[_earlier_task(earlier, any_agent) for earlier in context] or None,
            tools=self._tools_for(spec, hierarchical),
            output_pydantic=_model_of(spec),
            guardrail=guardrail.judge if (guardrail := self._guardrail(spec)) else None,
            converter_cls=ToldConverter,
            guardrail_max_retries=spec.guardrail_max_retries,
            markdown=spec.markdown,
            allow_crewai_trigger_context=False,
        )
        memory = build_memory(self._attempt) if self._spec.memory.enabled else None
        crew = OneTaskCrew(
            name=self._spec.name,
            agents=list(agents.values()),
            tasks=[task],
            process=CrewProcess.hierarchical if hierarchical else CrewProcess.sequential,
            manager_llm=HostLLM.for_agent(self._attempt, self._spec.manager_model)
            if hierarchical and not manager
            else None,
            manager_agent=manager,
            memory=memory or False,
            knowledge=self._knowledge(self._spec.knowledge, *self._spec.agents),
            tracing=False,
        )
        return BuiltTask(crew, task, memory)

    def _specs_for(self, spec: TaskSpec, hierarchical: bool) -> list[AgentSpec]:
        """Return the agents a task can involve: each one more costs as much time as a short task."""
        own = [agent for agent in self._spec.agents if agent.name == spec.agent]
        if hierarchical or any(agent.allow_delegation for agent in own):
            return list(self._spec.agents)
        return own

    def build_agent(self, agent: AgentSpec, *, planning: bool = False) -> CrewAgent:
        """Return an agent. For `planning` its knowledge is text to read rather than a store to search."""
        role = self.text(agent.role)
        built = CrewAgent(
            role=role,
            goal=self.text(agent.goal),
            backstory=self.text(agent.backstory),
            llm=HostLLM.of_agent(self._attempt, agent, role),
            function_calling_llm=(
                HostLLM.for_agent(self._attempt, agent.function_calling_model, agent=agent.name, role=role)
                if agent.function_calling_model
                else None
            ),
            tools=build_tools(agent.tools, self._attempt),
            allow_delegation=agent.allow_delegation,
            max_iter=agent.max_iterations,
            max_retry_limit=agent.max_retries,
            knowledge_sources=(
                [StringKnowledgeSource(content=text.content) for text in agent.knowledge if text.memory is None]
                if planning
                else None
            ),
            knowledge=None if planning else self._knowledge(agent.knowledge, agent),
        )
        # Our own class, whose fields are CrewAI's.
        built._time_limit = agent.max_execution_time  # noqa: SLF001
        built._plans = agent.planning and not planning  # noqa: SLF001
        built._date = date_for(agent, self._session.started_at)  # noqa: SLF001
        return built

    def text(self, text: str) -> str:
        """Return a text of the crew with the inputs filled in."""
        try:
            return interpolate(text, self._session.inputs)
        except KeyError as missing:
            name = missing.args[0]
            raise TaskError(
                "TASK_FAILED", f'the crew asks for the input "{name}", which was not given', fatal=True
            ) from missing

    def _tools_for(self, spec: TaskSpec, hierarchical: bool) -> list[Any]:
        """Return the task's own tools together with its agent's; without tools of its own CrewAI takes the agent's."""
        if not spec.tools:
            return []
        agents = [agent for agent in self._spec.agents if agent.name == spec.agent and not hierarchical]
        inherited = agents[0].tools if agents else ()
        return list(build_tools((*inherited, *spec.tools), self._attempt))

    def _guardrail(self, spec: TaskSpec) -> ResultGuardrail | None:
        """Return what a result of the task has to pass: its agent's checks, its own, and what a model judges."""
        judging = spec.agent or self._spec.manager_agent
        agent = self._session.agent(judging) if judging else None
        checks: list[tuple[str, OutputCheck]] = []
        if spec.agent and agent is not None:
            path = f"spec.agents[{self._spec.agents.index(agent)}]"
            checks += [(f"{path}.checks[{index}]", check) for index, check in enumerate(agent.checks)]
        path = f"spec.tasks[{self._attempt.index}]"
        checks += [(f"{path}.checks[{index}]", check) for index, check in enumerate(spec.checks)]
        if not checks and not spec.guardrails:
            return None
        llm = HostLLM.for_agent(self._attempt, agent.model if agent else self._spec.manager_model, agent=judging)
        return ResultGuardrail(
            checks={field: compile_check(check) for field, check in checks},
            conditions={
                f"{path}.guardrails[{index}]": ModelGuardrail(self.text(condition), llm)
                for index, condition in enumerate(spec.guardrails)
            },
            refused=self._attempt.refuse,
        )

    def _knowledge(self, sources: Sequence[KnowledgeSpec], *readers: AgentSpec) -> Knowledge | None:
        if not sources:
            return None
        storage = KnowledgeStorage.over(
            self._attempt, self._spec.memory.embedding_model, sources, {reader.name for reader in readers}
        )
        return Knowledge(collection_name="knowledge", sources=[], storage=storage)


def build_memory(attempt: TaskAttempt, *, approved: bool = False) -> ResultMemory | AnalysedMemory:
    """Return the crew's memory as a task sees it, or to save its `approved` result."""
    spec = attempt.session.spec
    llm = HostLLM.for_agent(attempt, spec.memory.model or spec.model)
    if spec.memory.analysis:
        return AnalysedMemory.of(attempt, llm, approved=approved)
    return ResultMemory.of(attempt, llm, approved=approved)


def build_for_planning(attempt: TaskAttempt) -> list[Task]:
    """Return all tasks of the crew as CrewAI's planner wants to read them; they are not meant to run."""
    builder = _Builder(attempt)
    spec = attempt.session.spec
    agents = {agent.name: builder.build_agent(agent, planning=True) for agent in spec.agents}
    return [
        Task(
            name=task.name,
            description=builder.text(task.description),
            expected_output=builder.text(task.expected_output),
            agent=agents.get(task.agent),
            tools=list(build_tools(task.tools, attempt)),
        )
        for task in spec.tasks
    ]


def _earlier_task(earlier: EarlierTask, any_agent: CrewAgent) -> Task:
    name, output = earlier.name, earlier.output
    task = Task(name=name, description=name, expected_output="-", agent=any_agent)
    task.output = TaskOutput(name=name, description=name, raw=output.text, agent=output.agent_role or "-")
    return task


def _model_of(spec: TaskSpec) -> type[BaseModel] | None:
    if spec.output_schema is None:
        return None
    try:
        return result_class(spec.output_schema)
    except Exception as error:
        # Whatever CrewAI raises as it makes the class.
        raise TaskError("TASK_FAILED", f"the output schema cannot be used: {error}", fatal=True) from error


def _revision_text(revision: Revision | None) -> str:
    if revision is None:
        return ""
    said = I18N_DEFAULT.errors("validation_error").format(
        guardrail_result_error=revision.feedback or "A person refused it without saying why.",
        task_output=revision.previous,
    )
    return f"\n\n{said}"
