"""Everything a crew process needs, imported and used once in the fork server; no thread and no connection is left."""

import contextlib
import gc
import threading

from crewai.events.event_bus import crewai_event_bus

from coxswain.models.v1.inference_pb2 import CompleteResponse
from coxswain.orchestrator.worker.link_pb2 import CrewRequest, HostReply, OpenSession, RunTask, ToolSet
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.domain.tool_sets import tool_sets
from services.orchestrator.messages.crews import spec_to_proto
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.worker.crew import child, runner
from services.orchestrator.worker.crew.adapter import build_task
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.no_files import leave_out_files
from services.orchestrator.worker.crew.session import Session
from services.orchestrator.worker.crew.tools.factory import arguments_model

__all__ = ["child", "practise", "preload"]

_silence = contextlib.ExitStack()


def preload() -> None:
    """Warm the process that crew processes are forked from.

    Raises:
        RuntimeError: something started a thread; a forked copy of it would lack the thread but keep its locks.
    """
    leave_out_files()
    session = _practice_session()
    # The first crew registers CrewAI's own listeners: telemetry, tracing, the console. Without any, events cost little
    # and start no threads; what we want of them comes by another way.
    build_task(TaskAttempt(session, 0, "warm"), context=[])
    _silence.enter_context(crewai_event_bus.scoped_handlers())
    # What a process does for the first time takes twice as long: it is done here, once for all.
    practise()
    for name, tool in TOOLS.items():
        if tool.in_crew_process:
            arguments_model(name)
    if threading.active_count() != 1:
        raise RuntimeError(f"threads in the fork server: {[thread.name for thread in threading.enumerate()]}")
    gc.collect()
    # Forked processes share these objects' pages as long as the collector leaves them alone.
    gc.freeze()


def practise() -> None:
    """Run a task of a crew whose model always answers the same."""
    runner.run_task(_practice_session(), 0, RunTask(attempt=1))


class _PracticeLink:
    """A host whose models always answer the same."""

    def call(self, _request: CrewRequest, *, timeout: float | None = None) -> HostReply:  # noqa: ARG002
        return HostReply(complete=CompleteResponse(text="Warm."))

    def notify(self, _request: CrewRequest) -> None:
        pass


def _practice_session() -> Session:
    agent = AgentSpec("warm", "warm", "warm", model="warm")
    task = TaskSpec("warm", "warm", "warm", agent="warm")
    spec = CrewSpec("warm", (agent,), (task,), model="warm", manager_model="warm", planning_model="warm")
    no_tools = [ToolSet() for _ in tool_sets(spec)]
    return Session.open(_PracticeLink(), OpenSession(execution_id="warm", spec=spec_to_proto(spec), tool_sets=no_tools))
