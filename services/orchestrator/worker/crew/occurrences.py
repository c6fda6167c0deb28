"""Which of several equal calls one is: the number that tells them apart in the journal.

The journal keeps an answer under what was asked and its number among equal questions, so that a question asked twice on
purpose is two calls. When an agent starts a task over, what it asks again is no new question. CrewAI 1.15 lets agents
start over in two ways, both by calling `Agent.execute_task` with the same `Task` object:

- `Agent._handle_execution_error`, when an answer could not be used (one that does not follow the schema, for example).
  The conversation begins with the same prompt.
- `Task._invoke_guardrail_function`, when a guardrail refused the result. The prompt says what was wrong.

Work for a coworker has a `Task` object of its own; a run of it belongs to the run that asked for it.

The rule: when a run starts over, the numbers of its calls are free again, those of its coworkers' calls included. Equal
calls get them again and with them the outcomes that the host knows. The answer that ended the run is the exception: it
was of no use, so that the same question is a new call. Nothing else is given back, calls outside of runs least of all.
"""

import contextlib
import threading
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

_Call = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Run:
    """An agent's work on a task object."""

    taken: list[_Call] = field(default_factory=list)
    spent: list[_Call] = field(default_factory=list)
    """Answers that ended it."""
    answered: _Call | None = None
    """Its last question of its own to a model, if that was answered."""
    nested: list["_Run"] = field(default_factory=list)


_run: ContextVar[_Run | None] = ContextVar("coxswain_agent_run", default=None)


class Occurrences:
    """The numbers of all calls in one attempt at a task. Agents may work in several threads."""

    def __init__(self) -> None:
        self._in_use: dict[str, set[int]] = {}
        self._runs: dict[Hashable, _Run] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> int:
        """Return the number of a call that is about to be made, from 0."""
        with self._lock:
            return self._take(key)

    @contextlib.contextmanager
    def question(self, key: str) -> Iterator[int]:
        """Yield the number of a question to a model; one that is not answered (an exception) gives it back."""
        with self._lock:
            number = self._take(key)
        run = _run.get()
        try:
            yield number
        except BaseException:
            with self._lock:
                self._give_back((key, number))
                if run is not None:
                    run.taken.remove((key, number))
                    run.answered = None
            raise
        if run is not None:
            run.answered = (key, number)

    @contextlib.contextmanager
    def run(self, task: Hashable) -> Iterator[None]:
        """Have an agent work on a task object within; it starts over if an agent has done so before."""
        with self._lock:
            known = self._runs.get(task)
            if known is None:
                known = self._runs[task] = _Run()
                if (outer := _run.get()) is not None:
                    outer.nested.append(known)
            else:
                self._start_over(known)
        token = _run.set(known)
        try:
            yield
        finally:
            _run.reset(token)

    def _take(self, key: str) -> int:
        in_use = self._in_use.setdefault(key, set())
        number = next(number for number in range(len(in_use) + 1) if number not in in_use)
        in_use.add(number)
        if (run := _run.get()) is not None:
            run.taken.append((key, number))
        return number

    def _start_over(self, run: _Run) -> None:
        if run.answered is not None:
            run.taken.remove(run.answered)
            run.spent.append(run.answered)
        self._give_back(*run.taken)
        for nested in run.nested:
            self._give_back(*_calls(nested))
        run.taken, run.answered, run.nested = [], None, []

    def _give_back(self, *calls: _Call) -> None:
        for key, number in calls:
            self._in_use[key].discard(number)


def _calls(run: _Run) -> list[_Call]:
    return [*run.taken, *run.spent, *(call for nested in run.nested for call in _calls(nested))]
