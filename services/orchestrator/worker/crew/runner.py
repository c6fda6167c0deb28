"""Runs what the host asks for: one task, or the crew's plan."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from crewai import Crew, CrewOutput
from crewai.events.stream_context import add_stream_sink, reset_stream_sinks
from crewai.hooks.dispatch import HookAborted
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError
from crewai.utilities.planning_handler import CrewPlanner
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel

from coxswain.orchestrator.v1.execution_pb2 import TaskOutput
from coxswain.orchestrator.worker.link_pb2 import Plan, RunTask
from services.common.grpc.json_values import to_struct
from services.common.storable import storable, storable_json
from services.orchestrator.domain.execution import PLAN_INDEX
from services.orchestrator.worker.crew.adapter import build_for_planning, build_memory, build_task
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.llm import HostLLM
from services.orchestrator.worker.crew.material import materials_of
from services.orchestrator.worker.crew.session import Session
from services.orchestrator.worker.crew.tool_events import tool_events
from services.orchestrator.worker.crew.usable_answers import quoted
from services.orchestrator.worker.link.crew_end import LinkClosed
from services.orchestrator.worker.link.errors import TaskError

_REFUSED = "Task failed guardrail validation"
"""How CrewAI says that a guardrail has refused a result for the last time."""
_MAX_NESTING = 24
"""Messages may be nested 100 deep, and each level of JSON takes three of them."""

T = TypeVar("T")


def run_task(session: Session, index: int, request: RunTask) -> TaskOutput:
    """Do one task and return its output.

    Raises:
        TaskError: it failed.
    """
    spec = session.spec.tasks[index]
    attempt = TaskAttempt(session, index, spec.name)
    revision = request.revision if request.HasField("revision") else None
    attempt.materials = materials_of(session.inputs, [earlier.output.text for earlier in request.context])

    def work() -> TaskOutput:
        built = build_task(attempt, context=request.context, plan=request.plan, revision=revision)
        if built.memory is not None and request.attempt > 1:
            built.memory.forget_earlier_attempts()
        result = _kick_off(attempt, built.crew)
        assert isinstance(result, CrewOutput)  # the crew does not stream
        output = result.tasks_output[-1]
        if spec.output_schema is not None and output.pydantic is None:
            raise TaskError("TASK_FAILED", "the result does not follow the task's output schema")
        if built.memory is not None:
            built.memory.save_result(output.raw, output.agent)
        return TaskOutput(
            text=storable(output.raw),
            structured=_structured(output.pydantic) if output.pydantic else None,
            agent_role=storable(output.agent),
            cut_off=bool(output.raw.strip()) and any(text.endswith(output.raw.strip()) for text in attempt.cut_off),
        )

    return _finish(attempt, work)


def save_result(session: Session, index: int, result: TaskOutput) -> None:
    """Save a result of a task that a person has approved.

    Raises:
        TaskError: it cannot be saved.
    """
    attempt = TaskAttempt(session, index, session.spec.tasks[index].name)
    memory = build_memory(attempt, approved=True)
    _finish(attempt, lambda: memory.save_approved(result.text, result.agent_role))


def _kick_off(attempt: TaskAttempt, crew: Crew) -> object:
    try:
        return crew.kickoff()
    except HookAborted:
        raise
    except Exception as error:
        if not str(error).startswith(_REFUSED):
            raise
        raise TaskError("TASK_FAILED", f"{error}. The result was: {quoted(attempt.refused_result)}") from error


def _structured(result: BaseModel) -> Struct:
    document = storable_json(result.model_dump(mode="json", by_alias=True))
    if not _is_storable(document, _MAX_NESTING):
        raise TaskError(
            "TASK_FAILED",
            "the result cannot be stored: numbers must be finite, and values nested at most "
            f"{_MAX_NESTING} levels deep",
        )
    return to_struct(document)


def _is_storable(value: Any, levels: int) -> bool:
    match value:
        case dict() | list():
            items = value.values() if isinstance(value, dict) else value
            return levels > 0 and all(_is_storable(item, levels - 1) for item in items)
        case float():
            return math.isfinite(value)
        case _:
            return True


def make_plan(session: Session) -> Plan:
    """Have the planning model plan the whole crew, and return what each task's description is extended by.

    Raises:
        TaskError: the crew could not make a plan.
    """
    attempt = TaskAttempt(session, PLAN_INDEX, "")
    attempt.materials = materials_of(session.inputs, [])

    def work() -> Plan:
        llm = HostLLM.for_agent(attempt, session.spec.planning_model)
        # CrewAI's own step before the first task, which Crew.kickoff would take again for every one of ours.
        planned = CrewPlanner(build_for_planning(attempt), llm)._handle_crew_planning()  # noqa: SLF001
        additions: dict[int, str] = {}
        for step in planned.list_of_plans_per_task:
            additions.setdefault(step.task_number - 1, storable(step.plan))
        return Plan(additions=additions)

    return _finish(attempt, work)


def _finish(attempt: TaskAttempt, work: Callable[[], T]) -> T:
    token = add_stream_sink(tool_events(attempt))
    try:
        result = work()
        attempt.check()
        return result
    except (TaskError, HookAborted) as error:
        raise attempt.failure or _as_task_error(error) from error
    except LinkClosed:
        raise
    except Exception as error:
        raise attempt.failure or _as_task_error(error) from error
    finally:
        reset_stream_sinks(token)


def _as_task_error(error: Any) -> TaskError:
    if isinstance(error, TaskError):
        return error
    if isinstance(error, LLMContextLengthExceededError):
        return TaskError("CONTEXT_WINDOW_EXCEEDED", error.original_error_message)
    return TaskError("TASK_FAILED", str(error) or type(error).__name__)
