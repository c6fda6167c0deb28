"""One attempt at a task in this process."""

import threading
from typing import Any

from crewai.hooks.dispatch import HookAborted

from coxswain.orchestrator.worker.link_pb2 import CrewRequest, HostReply
from services.orchestrator.domain.crew import TaskSpec
from services.orchestrator.worker.crew.deadline import out_of_time, remaining_time
from services.orchestrator.worker.crew.host_calls import HostCalls
from services.orchestrator.worker.crew.occurrences import Occurrences
from services.orchestrator.worker.crew.session import Session
from services.orchestrator.worker.link.errors import WAITS_FOR_PERSON, TaskError


class TaskAttempt:
    """`index` is the task's position in the crew, PLAN_INDEX for the crew's plan.

    CrewAI turns most exceptions into text for the model or a log line. What must end the task is therefore kept here
    (`fail`) and raised at the next opportunity (`check`) as the one exception CrewAI lets through.
    """

    def __init__(self, session: Session, index: int, name: str) -> None:
        self.session = session
        self.index = index
        self.name = name
        self.host = HostCalls(self._ask, self._notify)
        self.materials: list[str] = []
        self.cut_off: list[str] = []
        """Answers that ended at the largest number of tokens."""
        self.refused_result = ""
        """The last result that its guardrail has refused."""
        self.agent_role, self.agent_text = "", ""
        """Who was answered last by a model that calls tools, and what it said beside that."""
        self.failure: TaskError | None = None
        self.occurrences = Occurrences()
        self._lock = threading.Lock()

    @property
    def task(self) -> TaskSpec:
        """The task as the crew describes it; not for the crew's plan."""
        return self.session.spec.tasks[self.index]

    # CrewAI copies agents and models; what they hold of an attempt stays the attempt.
    def __deepcopy__(self, _memo: dict[int, Any]) -> "TaskAttempt":
        return self

    def fail(self, error: TaskError) -> HookAborted:
        """Keep the first reason to end the task, and return the exception to raise."""
        with self._lock:
            if self.failure is None:
                self.failure = error
        return HookAborted(self.failure.message, source="coxswain")

    def refuse(self, fields: list[str], message: str, result: str) -> None:
        """Note that a result did not pass what the crew's `fields` ask for."""
        self.refused_result = result
        self.host.guardrail_refused(fields, message)

    @property
    def waits_for_person(self) -> bool:
        """Whether the task has to end because a person is asked about a call."""
        return self.failure is not None and self.failure.reason == WAITS_FOR_PERSON

    def check(self) -> None:
        """Raise when there is a reason to end the task."""
        if self.failure is not None:
            raise HookAborted(self.failure.message, source="coxswain")

    def _ask(self, request: CrewRequest) -> HostReply:
        """Ask the host within the time the agent has left."""
        # Calls of one answer do not wait for each other's approvals.
        if not (self.waits_for_person and request.HasField("call_tool")):
            self.check()
        request.task = self.index
        try:
            return self.session.link.call(request, timeout=remaining_time())
        except TimeoutError as error:
            raise self.fail(out_of_time()) from error
        except TaskError as error:
            if error.fatal:
                raise self.fail(error) from error
            raise

    def _notify(self, request: CrewRequest) -> None:
        request.task = self.index
        self.session.link.notify(request)
