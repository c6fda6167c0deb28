"""Crews for the tests, the emulated model's part in them, and reading what came of them."""

import contextlib
import json
import random
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from coxswain.client import Client, CoxswainError
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskContext, TaskSpec
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    GetExecutionRequest,
    GetTaskOutputsRequest,
    TaskRun,
)
from services.orchestrator.tables import crew_revisions, crews, execution_events, executions, requests, task_runs
from tests.support.installation import Installation, crew_processes, wait_until
from tests.support.llm_emulator import Call, LlmEmulator
from tests.support.llm_script import Reply, ToolCall

MODEL = "openai/gpt-4.1-mini"
"""A shared model that can call tools and follow schemas; in the tests the emulator answers for it."""
OFFLINE = "offline/extract"

ALICE = "dev:alice:sales=editor"
BOB = "dev:bob:legal=admin"

SUCCEEDED = ExecutionState.EXECUTION_STATE_SUCCEEDED
CANCELLED = ExecutionState.EXECUTION_STATE_CANCELLED
RUNNING = ExecutionState.EXECUTION_STATE_RUNNING


class Scene:
    """One test's crew and its model: every text carries a mark of its own, so that tests can share the emulator."""

    def __init__(self, llm: LlmEmulator) -> None:
        self.llm = llm
        self.mark = uuid.uuid4().hex[:8]

    def word(self, name: str) -> str:
        """Return a word that stands in the prompts of task or subtask `name` of this scene alone."""
        return f"{name}-{self.mark}"

    def answers(self, name: str, text: str = "", *, tool: ToolCall | None = None, **more: Any) -> None:
        """Script the model for calls about `name`; earlier rules come first. `more`: fields of Reply and When."""
        when = {field: more.pop(field) for field in ("last_role", "last_contains", "times", "nth") if field in more}
        reply = Reply(text=None if tool else text, tool_calls=[tool] if tool else [], **more)
        self.llm.on(reply, route="chat", contains=self.word(name), **when)

    def calls(self, name: str, **when: Any) -> list[Call]:
        """Return the chat calls about `name` so far."""
        word = self.word(name)
        return [call for call in self.llm.calls_where(route="chat", **when) if word in json.dumps(call.body)]

    def wait_until_hanging(self, name: str) -> None:
        """Wait until the model keeps a call about `name` waiting."""
        wait_until(lambda: any(call.hanging for call in self.calls(name)), f"a call about {name} hangs")

    def crew(self, *tasks: str, agents: Sequence[AgentSpec] = (), model: str = MODEL, **fields: Any) -> CrewSpec:
        """Return a crew whose tasks are about words of this scene, done one after the other by the first agent."""
        agents = agents or [AgentSpec(name="worker", role="Worker", goal="Do the task", backstory="Seasoned")]
        return CrewSpec(
            name=f"crew-{self.mark}",
            agents=agents,
            tasks=[self.task(name, agents[0].name) for name in tasks],
            model=model,
            **fields,
        )

    def task(self, name: str, agent: str, **fields: Any) -> TaskSpec:
        """Return a task about a word of this scene, with no context but what is given."""
        fields.setdefault("context", TaskContext())
        return TaskSpec(
            name=name,
            description=f"Work on {self.word(name)}",
            expected_output="One line",
            agent=agent,
            **fields,
        )

    def start_and_hang_in_second(self, client: Client) -> Execution:
        """Start an execution of three tasks; return once the second one is told to have started and its model hangs."""
        self.answers("first", "First result.")
        self.answers("second", "Second result.", hang=True, times=1)
        self.answers("second", "Second result.")
        self.answers("third", "Third result.")
        execution = client.start(self.crew("first", "second", "third"))
        self.wait_until_hanging("second")
        # Stored a little after the call: a host that dies sooner has not told of it.
        next(
            event
            for event in client.watch(execution.id)
            if kinds([event]) == ["task_started"] and event.task_name == "second"
        )
        return execution


def reading_crew() -> CrewSpec:
    """Return a crew of the offline model that finds what matters in the input `text`."""
    return CrewSpec(
        name="reading",
        agents=[AgentSpec(name="reader", role="Reader", goal="Find what the text says")],
        tasks=[
            TaskSpec(
                name="read", description="Read: {text}", expected_output="The most important sentence", agent="reader"
            )
        ],
        model=OFFLINE,
    )


def kinds(events: Sequence[ExecutionEvent]) -> list[str]:
    """Return what happened, one word for each event."""
    return [event.WhichOneof("event") or "" for event in events]


def finish(client: Client, execution: Execution, after_sequence: int = 0) -> list[ExecutionEvent]:
    """Watch an execution to its end and return its events."""
    return list(client.watch(execution.id, after_sequence))


def get(client: Client, execution: Execution) -> Execution:
    """Return the execution as it stands."""
    return client.executions.GetExecution(GetExecutionRequest(id=execution.id)).execution


def outputs(client: Client, execution: Execution) -> list[TaskRun]:
    """Return the tasks of an execution, in the crew's order."""
    return list(client.executions.GetTaskOutputs(GetTaskOutputsRequest(id=execution.id)).tasks)


def stored_sequences(installation: Installation, execution: Execution) -> list[int]:
    """Return the sequences of all events that are stored, in order."""
    query = (
        select(execution_events.c.sequence)
        .where(execution_events.c.execution_id == execution.id)
        .order_by(execution_events.c.sequence)
    )
    return [row["sequence"] for row in installation.rows("orchestrator", query)]


def stored_state(installation: Installation, execution: Execution) -> dict[str, list[dict[str, Any]]]:
    """Return every row that tells of an execution."""
    tables = {executions: executions.c.id, task_runs: task_runs.c.execution_id}
    tables |= {execution_events: execution_events.c.execution_id}
    return {
        table.name: [
            dict(row)
            for row in installation.rows(
                "orchestrator", select(table).where(key == execution.id).order_by(*table.primary_key.columns)
            )
        ]
        for table, key in tables.items()
    }


def stored_counts(installation: Installation) -> dict[str, int]:
    """Return how many crews, revisions, executions and known requests are stored."""
    return {
        table.name: installation.rows("orchestrator", select(func.count().label("n")).select_from(table))[0]["n"]
        for table in (crews, crew_revisions, executions, requests)
    }


class Refused:
    """What a call was refused with."""

    error: CoxswainError

    @property
    def fields(self) -> list[str]:
        """The paths of the fields at fault."""
        return [violation.field for violation in self.error.violations]


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Refused]:
    """Expect a call to fail with a status code and a reason."""
    refusal = Refused()
    with pytest.raises(CoxswainError) as caught:
        yield refusal
    refusal.error = caught.value
    assert (refusal.error.code, refusal.error.reason) == (code, reason), repr(refusal.error)


def kill_one_at_work(installation: Installation, dice: random.Random) -> bool:
    """Kill a host that is at work, or one of its crew processes, then see to it that all hosts live again.

    Returns whether there was one.
    """
    busy = [host for host in installation.worker_hosts() if crew_processes(host)]
    if not busy:
        return False
    host = dice.choice(busy)
    processes = crew_processes(host)
    victim = dice.choice(processes) if processes and dice.random() < 0.25 else host
    victim.kill()
    installation.restore_workers()
    return True
