"""Everything a crew process needs, imported and used once in the fork server; no thread and no connection is left."""

import contextlib
import gc
import threading
from typing import Any

from crewai.events.event_bus import crewai_event_bus

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.worker.crew import child, runner
from services.orchestrator.worker.crew.adapter import build_task
from services.orchestrator.worker.crew.session import Session, TaskRun
from services.orchestrator.worker.crew.tools.factory import arguments_model
from services.orchestrator.worker.link.framing import Frame

__all__ = ["child", "preload"]

_silence = contextlib.ExitStack()


def preload() -> None:
    """Warm the process that crew processes are forked from.

    Raises:
        RuntimeError: something started a thread; a forked copy of it would lack the thread but keep its locks.
    """
    session = _practice()
    # The first crew registers CrewAI's own listeners: telemetry, tracing, the console. Without any, events cost little
    # and start no threads; what we want of them comes by another way.
    build_task(TaskRun(session, 0, "warm"), context=[])
    _silence.enter_context(crewai_event_bus.scoped_handlers())
    # What a process does for the first time takes twice as long: it is done here, once for all.
    runner.run_task(session, {"task": 0, "context": []})
    for tool in TOOLS:
        arguments_model(tool)
    if threading.active_count() != 1:
        raise RuntimeError(f"threads in the fork server: {[thread.name for thread in threading.enumerate()]}")
    gc.collect()
    # Forked processes share these objects' pages as long as the collector leaves them alone.
    gc.freeze()


class _Practice:
    """A host that says the same to everything."""

    def call(self, _method: str, _params: Frame, *, timeout: float | None = None) -> Any:  # noqa: ARG002
        return {"text": "Warm.", "tool_calls": []}

    def notify(self, _method: str, _params: Frame) -> None:
        pass


def _practice() -> Session:
    agent = AgentSpec("warm", "warm", "warm", model="warm")
    task = TaskSpec("warm", "warm", "warm", agent="warm")
    spec = CrewSpec("warm", (agent,), (task,), model="warm", manager_model="warm", planning_model="warm")
    params = {"execution_id": "warm", "spec": to_document(spec), "inputs": {}, "models": {}}
    return Session.open(_Practice(), params)
