"""What the tasks of one segment share in a crew process, and what one run of a task knows."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from crewai.hooks.dispatch import HookAborted

from services.orchestrator.domain.crew import AgentSpec, CrewSpec
from services.orchestrator.domain.document import from_document
from services.orchestrator.worker.crew.pacing import Pacer
from services.orchestrator.worker.link.framing import Frame, RemoteError


class HostLink(Protocol):
    """The way to the host; see `remote.link.Link`."""

    def call(self, method: str, params: Frame, *, timeout: float | None = None) -> Any:
        """Return the host's answer."""
        ...

    def notify(self, method: str, params: Frame) -> None:
        """Tell the host something."""
        ...


_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("coxswain_deadline", default=None)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the adapter has to know of a model."""

    tools: bool = False
    json_schema: bool = False
    context_window: int = 0
    """Tokens; 0 means unknown."""


@dataclass(slots=True)
class Session:
    """One segment: the crew with every model name filled in, its inputs, and the link to the host."""

    link: HostLink
    execution_id: str
    spec: CrewSpec
    inputs: dict[str, Any]
    models: Mapping[str, ModelFacts]
    vectors: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Embeddings of knowledge by model and text: made once, whichever task needs them."""
    _pacers: dict[str, Pacer] = field(default_factory=dict)

    @classmethod
    def open(cls, link: HostLink, params: Frame) -> "Session":
        """Return the session that the host's `open` describes."""
        spec = from_document(CrewSpec, params["spec"])
        models = {name: ModelFacts(**facts) for name, facts in params["models"].items()}
        session = cls(link, params["execution_id"], spec, params["inputs"], models)
        session._pacers = {
            agent.name: Pacer(agent.max_calls_per_minute) for agent in spec.agents if agent.max_calls_per_minute
        }
        return session

    def agent(self, name: str) -> AgentSpec:
        """Return the agent of that name."""
        return next(agent for agent in self.spec.agents if agent.name == name)

    def facts(self, model: str) -> ModelFacts:
        """Return what is known of a model."""
        return self.models.get(model, ModelFacts())

    def pacer(self, agent: str) -> Pacer | None:
        """Return what keeps an agent to its calls per minute, if it has a limit."""
        return self._pacers.get(agent)


class TaskRun:
    """One attempt at one task. `index` is the task's place in the crew, -1 for the crew's plan.

    CrewAI turns most exceptions into text for the model or a log line. What must end the task is therefore kept here
    (`fail`) and raised at the next opportunity (`check`) as the one exception CrewAI lets through.
    """

    def __init__(self, session: Session, index: int, name: str) -> None:
        self.session = session
        self.index = index
        self.name = name
        self.materials: list[str] = []
        self.failure: RemoteError | None = None
        self._lock = threading.Lock()
        self._occurrences: dict[str, int] = {}

    # CrewAI copies agents and models; what they hold of a run stays the run.
    def __deepcopy__(self, _memo: dict[int, Any]) -> "TaskRun":
        return self

    def fail(self, error: RemoteError) -> HookAborted:
        """Keep the first reason to end the task, and return the exception to raise."""
        with self._lock:
            if self.failure is None:
                self.failure = error
        return HookAborted(self.failure.message, source="coxswain")

    def check(self) -> None:
        """Raise when there is a reason to end the task."""
        if self.failure is not None:
            raise HookAborted(self.failure.message, source="coxswain")

    def occurrence(self, key: str) -> int:
        """Return how often `key` was asked for before, and count this time."""
        with self._lock:
            count = self._occurrences.get(key, 0)
            self._occurrences[key] = count + 1
            return count

    def call(self, method: str, params: Frame) -> Any:
        """Ask the host on behalf of this task, within the time the agent has left.

        Raises:
            HookAborted: the task has to end.
            RemoteError: the host answered with an error that may pass.
        """
        self.check()
        timeout = remaining_time()
        try:
            return self.session.link.call(method, {"task": self.index, **params}, timeout=timeout)
        except TimeoutError as error:
            raise self.fail(out_of_time()) from error
        except RemoteError as error:
            if error.fatal:
                raise self.fail(error) from error
            raise

    def notify(self, method: str, params: Frame) -> None:
        """Tell the host something about this task."""
        self.session.link.notify(method, {"task": self.index, **params})


def out_of_time() -> RemoteError:
    """Return the error of an agent that used up its max_execution_time."""
    return RemoteError("TASK_FAILED", "the agent ran past its max_execution_time", fatal=True)


def remaining_time() -> float | None:
    """Return the seconds the working agent has left, None without a limit."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit what is done inside to `seconds`; an outer limit that ends earlier stays in force."""
    if seconds is None:
        yield
        return
    outer = _deadline.get()
    own = time.monotonic() + seconds
    token = _deadline.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _deadline.reset(token)
