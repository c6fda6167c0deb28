"""Calling the orchestrator as an agent of A2A, with the stubs of the official SDK."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from coxswain.orchestrator.v1 import a2a_pb2, execution_pb2
from services.common.ids import new_id
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import ExecutionState, TaskOutput
from services.orchestrator.tables import executions
from tests.integration.orchestrator.support import Worker, create_crew, crews
from tests.support.harness import ALICE, Harness

VERSION = {"a2a-version": "1.0"}
OPERATOR = "dev:olga:sales=operator"
DOMAIN = "a2a-protocol.org"
CODE = grpc.StatusCode
INPUTS = {"topic": "ships"}


def stub_of(channel: Any) -> Any:
    """Return the SDK's stub on a channel."""
    return cast("Any", A2AServiceStub)(channel)


def agent(harness: Harness, bearer: str = ALICE, **headers: str) -> Any:
    """Return a stub whose calls carry version 1.0, and headers with `_` in place of `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return stub_of(harness.channel(bearer, headers={**VERSION, **named}))


async def publish(harness: Harness, bearer: str = ALICE, **fields: Any) -> str:
    """Store a crew that is published, and return its tenant."""
    a2a = a2a_pb2.A2ASpec(**{"published": True, "text_input": "text", **fields})
    crew = await create_crew(harness, bearer, name=f"crew {new_id()}", a2a=a2a)
    listed = await crews(harness, bearer).ListPublications(a2a_pb2.ListPublicationsRequest())
    return next(one.tenant for one in listed.publications if one.crew_id == crew.id)


def sending(text: str = "A coxswain steers.", *, tenant: str = "", data: Any = INPUTS, **message: Any) -> Any:
    """Return the request to send a message; without `configuration` it is answered at once."""
    configuration = message.pop("configuration", {"return_immediately": True})
    request = pb.SendMessageRequest(tenant=tenant, configuration=pb.SendMessageConfiguration(**configuration))
    request.message.MergeFrom(pb.Message(**{"message_id": new_id(), "role": pb.ROLE_USER, **message}))
    if text:
        request.message.parts.add(text=text)
    if data is not None:
        json_format.ParseDict(data, request.message.parts.add().data)
    return request


async def send(stub: Any, text: str = "A coxswain steers.", **fields: Any) -> pb.Task:
    """Send a message, and return its task."""
    task: pb.Task = (await stub.SendMessage(sending(text, **fields))).task
    return task


async def work_through(worker: Worker, task_id: str, text: str = "Steered.") -> None:
    """Run an execution of one result to its end."""
    await worker.claim(task_id)
    await finish(worker, task_id, text)


async def finish(worker: Worker, task_id: str, text: str = "Steered.") -> None:
    """End an execution with its result, as a worker host does."""
    async with worker.database.write() as connection:
        await connection.execute(
            executions.update().where(executions.c.id == task_id).values(result=to_document(TaskOutput(text)))
        )
    body = execution_pb2.ExecutionSucceeded(result=execution_pb2.TaskOutput(text=text))
    await worker.end(task_id, ExecutionState.SUCCEEDED, body)


async def ask(worker: Worker, task_id: str, **fields: Any) -> str:
    """Have a running execution wait for an answer, as a worker host does; return the question's id."""
    question_id = await worker.park(task_id, 1, **fields)
    raised = execution_pb2.QuestionRaised(question_id=question_id, text="Is this result good?")
    parked = execution_pb2.ExecutionParked(state=execution_pb2.EXECUTION_STATE_WAITING_FOR_ANSWER)
    await worker.emit(task_id, raised, parked)
    return question_id


async def play(harness: Harness, worker: Worker, bearer: str) -> None:
    """Ask about each task, and end it when it was approved."""
    stub, asked = agent(harness, bearer), set[str]()
    while True:
        for task in (await stub.ListTasks(pb.ListTasksRequest())).tasks:
            execution_id = task.metadata.fields["coxswain/execution"].string_value
            if not execution_id or (await worker.row(execution_id)).state != "QUEUED":
                continue
            await worker.claim(execution_id)
            if execution_id in asked:
                await finish(worker, execution_id, "A brief.")
            else:
                asked.add(execution_id)
                await ask(worker, execution_id)


def state(task: Any) -> str:
    """Return where a task, or an update of its status, stands, without the prefix."""
    return pb.TaskState.Name(task.status.state).removeprefix("TASK_STATE_")


@dataclass
class Refusal:
    """A refused call."""

    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str = "") -> Iterator[Refusal]:
    """Expect a refusal with a reason of A2A as its first detail, or (no reason) with the fields at fault first."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield refusal
    status = rpc_status.from_call(cast("Any", caught.value))
    assert status is not None
    assert caught.value.code() == code, caught.value.details()
    kinds = [detail.TypeName().rpartition(".")[2] for detail in status.details]
    infos = []
    for detail in status.details:
        info, fields = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            infos.append(info)
        elif detail.Unpack(fields):
            refusal.violations = [fault.field for fault in fields.field_violations]
    if reason:
        assert kinds[0] == "ErrorInfo"
        assert (infos[0].domain, infos[0].reason, infos[1].domain) == (DOMAIN, reason, "coxswain")
        refusal.metadata = infos[0].metadata
    else:
        assert kinds[0] == "BadRequest"
        assert [info.domain for info in infos] == ["coxswain"]
    assert "RequestInfo" in kinds
    refusal.message = caught.value.details() or ""
