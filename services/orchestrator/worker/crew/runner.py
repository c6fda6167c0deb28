"""Runs what the host asks for: one task, or the crew's plan."""

from collections.abc import Callable
from typing import Any, TypeVar

from crewai import CrewOutput
from crewai.events.stream_context import add_stream_sink, reset_stream_sinks
from crewai.hooks.dispatch import HookAborted
from crewai.utilities.planning_handler import CrewPlanner

from services.orchestrator.worker.crew.adapter import Earlier, Revision, build_for_planning, build_task
from services.orchestrator.worker.crew.events import tool_events
from services.orchestrator.worker.crew.llm import HostLLM
from services.orchestrator.worker.crew.material import materials_of
from services.orchestrator.worker.crew.session import Session, TaskRun
from services.orchestrator.worker.link.crew_end import LinkClosed
from services.orchestrator.worker.link.framing import Frame, RemoteError

PLAN_INDEX = -1

T = TypeVar("T")


def run_task(session: Session, params: Frame) -> Frame:
    """Do one task and return its output.

    Raises:
        RemoteError: it failed.
    """
    index = params["task"]
    spec = session.spec.tasks[index]
    run = TaskRun(session, index, spec.name)
    context = [Earlier(**earlier) for earlier in params["context"]]
    revision = Revision(**params["revision"]) if params.get("revision") else None
    run.materials = materials_of(session.inputs, [earlier.text for earlier in context])

    def work() -> Frame:
        built = build_task(run, context=context, plan=params.get("plan", ""), revision=revision)
        if built.memory is not None and params["attempt"] > 1:
            built.memory.forget_earlier_attempts()
        result = built.crew.kickoff()
        assert isinstance(result, CrewOutput)  # the crew does not stream
        output = result.tasks_output[-1]
        if spec.output_schema is not None and output.pydantic is None:
            raise RemoteError("TASK_FAILED", "the result does not follow the task's output schema")
        if built.memory is not None:
            built.memory.save_result(output.raw, output.agent)
        return {
            "text": output.raw,
            "structured": output.pydantic.model_dump(mode="json", by_alias=True) if output.pydantic else None,
            "agent_role": output.agent,
        }

    return _finish(run, work)


def make_plan(session: Session, _params: Frame) -> Frame:
    """Have the planning model plan the whole crew, and return what each task's description is extended by.

    Raises:
        RemoteError: there is no plan.
    """
    run = TaskRun(session, PLAN_INDEX, "")
    run.materials = materials_of(session.inputs, [])

    def work() -> Frame:
        llm = HostLLM.for_agent(run, session.spec.planning_model)
        # CrewAI's own step before the first task, which Crew.kickoff would take again for every one of ours.
        planned = CrewPlanner(build_for_planning(run), llm)._handle_crew_planning()  # noqa: SLF001
        plans: dict[str, str] = {}
        for step in planned.list_of_plans_per_task:
            plans.setdefault(str(step.task_number - 1), step.plan)
        return {"plans": plans}

    return _finish(run, work)


def _finish(run: TaskRun, work: Callable[[], T]) -> T:
    token = add_stream_sink(tool_events(run))
    try:
        result = work()
        run.check()
        return result
    except (RemoteError, HookAborted) as error:
        raise run.failure or _as_task_failure(error) from error
    except LinkClosed:
        raise
    except Exception as error:
        raise run.failure or _as_task_failure(error) from error
    finally:
        reset_stream_sinks(token)


def _as_task_failure(error: Any) -> RemoteError:
    if isinstance(error, RemoteError):
        return error
    return RemoteError("TASK_FAILED", str(error) or type(error).__name__)
