"""CrewAI's loop of an agent, run step by step in the thread of its caller.

CrewAI runs the loop as a flow: for each task an event loop, for each step two threads. Which step follows which is read
from CrewAI's class; only the engine is another.
"""

import asyncio
import contextvars
import inspect
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from crewai.agents.agent_executor import AgentExecutor, AgentExecutorState
from crewai.flow.flow_definition import FlowDefinition
from pydantic import PrivateAttr

from services.orchestrator.worker.crew.tools.host_tool import RepeatedCalls

Step = Callable[[Any], Any]
Following = Generator[str, str | None, None]
"""The steps that follow one, which is told what each of them comes to once all that follows that has been done."""


class AgentLoop(AgentExecutor):
    """Does what CrewAI's class does."""

    _done: Counter[str] = PrivateAttr(default_factory=Counter)
    _tool_call_counts: dict[int, int] = PrivateAttr(default_factory=RepeatedCalls)

    @classmethod
    def flow_definition(cls) -> FlowDefinition:
        """Return the steps of CrewAI's class: a class of flows does not inherit them."""
        return AgentExecutor.flow_definition()

    def kickoff(self, *_: Any, **__: Any) -> None:
        """Run the loop until no step follows any more.

        Steps follow one another depth first, on a stack of our own: Python's would end after some hundred rounds.
        """
        self._done.clear()
        under_way: list[tuple[Following, str]] = [(_starts(), "")]
        result: str | None = None
        while under_way:
            following, own_result = under_way[-1]
            try:
                name = following.send(result)
            except StopIteration:
                under_way.pop()
                result = own_result
            else:
                under_way.append((_following_step(name), self._run(name)))
                result = None

    async def kickoff_async(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: CrewAI's engine would find no steps here, and end at once.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("the loop of an agent is not run within an event loop")

    def _run(self, name: str) -> str:
        """Do a step, and return what it comes to."""
        self._done[name] += 1
        if self._done[name] > self.max_method_calls:
            raise RecursionError(f"the agent's step {name} was done {self.max_method_calls} times")
        # A step's changes of context variables end with it, as they do in threads.
        result = contextvars.copy_context().run(_STEPS[name], self)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        return str(result)

    # Made for each agent by CrewAI and used by its engine alone.
    def _class_bound_methods(self) -> dict[Any, Any]:
        return {}

    # CrewAI makes a class for it, with its own validator, and then replaces the state.
    def _create_initial_state(self) -> AgentExecutorState:
        return AgentExecutorState()


def _step(name: str) -> Step:
    step: Step = AgentExecutor.__dict__[name].unwrap()
    if len(inspect.signature(step).parameters) != 1:
        raise RuntimeError(f"CrewAI's step {name} takes a result, which is not supported")
    return step


def _starts() -> Following:
    for name in _STARTS:  # noqa: UP028 - a list takes no results
        yield name


def _following_step(name: str) -> Following:
    triggers = [name]
    while routers := _ROUTERS.get(triggers[-1]):
        for router in routers:
            triggers.append(str((yield router)))
    for trigger in triggers:
        for listener in _LISTENERS.get(trigger, ()):  # noqa: UP028 - a tuple takes no results
            yield listener


def _by_trigger(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return those of some steps that follow a step or a step's result, by its name."""
    following: dict[str, tuple[str, ...]] = {}
    for name in names:
        condition = _METHODS[name].listen
        for trigger in [condition] if isinstance(condition, str) else _alternatives(condition):
            following[trigger] = (*following.get(trigger, ()), name)
    return MappingProxyType(following)


def _alternatives(condition: Any) -> list[str]:
    match condition:
        case {"or": [*names]} if len(condition) == 1 and all(isinstance(name, str) for name in names):
            return names
        case _:
            raise RuntimeError(f"CrewAI's loop has a step with the condition {condition}, which is not supported")


_METHODS = AgentExecutor.flow_definition().methods
_STEPS = {name: _step(name) for name in _METHODS}
_STARTS = [name for name, method in _METHODS.items() if method.start]
_ROUTERS = _by_trigger(name for name, method in _METHODS.items() if method.router and not method.start)
_LISTENERS = _by_trigger(name for name, method in _METHODS.items() if not method.router and not method.start)
