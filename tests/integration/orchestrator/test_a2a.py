"""A2A 1.0 over real gRPC, with the stubs of the official SDK: each test names what the protocol asks."""

import asyncio
import logging
import sys
from datetime import timedelta
from typing import Any

import grpc
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from coxswain.orchestrator.v1 import a2a_pb2, crew_pb2, execution_pb2, question_pb2, question_state_pb2
from services.common.clock import utc_now
from services.common.identity.principal import Role
from services.common.ids import new_id
from services.orchestrator.domain.execution import Execution, ExecutionState
from services.orchestrator.domain.question import QuestionedCall, QuestionKind
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.servicers.a2a.sending import Sender
from services.orchestrator.tables import a2a_messages
from services.orchestrator.usecases.a2a.tasks import A2ATasks
from services.orchestrator.usecases.a2a.views import TaskView
from services.orchestrator.usecases.executions import Executions
from tests.integration.orchestrator.a2a_support import (
    CODE,
    OPERATOR,
    agent,
    ask,
    finish,
    publish,
    refused,
    send,
    sending,
    state,
    stub_of,
    work_through,
)
from tests.integration.orchestrator.support import Worker, create_crew, crews, executions_of, questions_of
from tests.support.harness import ALICE, BOB, Harness
from tests.support.waiting import until

SERVICE = "lf.a2a.v1.A2AService"
FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


async def test_must_treat_unknown_foreign_and_unpublished_alike(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    task = await send(agent(harness), tenant=tenant)
    own_crew = await create_crew(harness, BOB, a2a=a2a_pb2.A2ASpec(published=True, text_input="text"))
    listed = await crews(harness, BOB).ListPublications(a2a_pb2.ListPublicationsRequest())
    bobs = listed.publications[0].tenant
    await crews(harness, BOB).UpdateCrew(
        crew_pb2.UpdateCrewRequest(id=own_crew.id, spec=crew_pb2.CrewSpec(), update_mask=FieldMask(paths=["a2a"]))
    )
    stub, told = agent(harness, BOB), set()
    calls: list[Any] = [
        lambda: stub.GetTask(pb.GetTaskRequest(id=task.id)),
        lambda: stub.GetTask(pb.GetTaskRequest(id=task.id, tenant=tenant)),
        lambda: stub.GetTask(pb.GetTaskRequest(id=new_id(), tenant=bobs)),
        lambda: stub.CancelTask(pb.CancelTaskRequest(id=task.id)),
        lambda: stub.CancelTask(pb.CancelTaskRequest(id="no id")),
        lambda: stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id)).read(),
        lambda: stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=new_id())).read(),
        lambda: stub.SendMessage(sending(tenant=tenant)),
        lambda: stub.SendMessage(sending(tenant=bobs)),
        lambda: stub.SendMessage(sending(tenant=new_id())),
        lambda: stub.SendMessage(sending()),
        lambda: stub.SendMessage(sending(task_id=task.id)),
        lambda: stub.SendMessage(sending(task_id=task.id, tenant=tenant)),
        lambda: stub.SendStreamingMessage(sending(tenant=tenant)).read(),
        lambda: stub.ListTasks(pb.ListTasksRequest(tenant=tenant)),
        lambda: stub.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(tenant=tenant)),
    ]
    for call in calls:
        with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND") as refusal:
            await call()
        told.add((refusal.message, *refusal.metadata))
    assert len(told) == 1
    assert not (await stub.ListTasks(pb.ListTasksRequest())).tasks
    assert state(await agent(harness).GetTask(pb.GetTaskRequest(id=task.id))) == "SUBMITTED"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_return_version_not_supported_and_accept_a_patch_part(harness: Harness) -> None:
    tenant = await publish(harness)
    request = pb.ListTasksRequest(tenant=tenant)
    counted = {"method": f"/{SERVICE}/ListTasks", "reason": "VERSION_NOT_SUPPORTED"}
    before = REGISTRY.get_sample_value("coxswain_protocol_refusals_total", counted) or 0
    for version in ("0.3", "", "2.0", "1.1"):
        stub: Any = stub_of(harness.channel(headers={"a2a-version": version} if version else {}))
        with refused(CODE.UNIMPLEMENTED, "VERSION_NOT_SUPPORTED") as refusal:
            await stub.ListTasks(request)
        assert dict(refusal.metadata) == {"requested": version or "0.3", "supported": "1.0"}
        # Before the message is looked at.
        with refused(CODE.UNIMPLEMENTED, "VERSION_NOT_SUPPORTED"):
            await stub.SendMessage(pb.SendMessageRequest())
    assert REGISTRY.get_sample_value("coxswain_protocol_refusals_total", counted) == before + 4
    assert (await agent(harness, a2a_version="1.0.1").ListTasks(request)).total_size == 0
    call = agent(harness, a2a_extensions="https://example.com/unknown").ListTasks(request)
    await call
    assert "a2a-extensions" not in dict(await call.trailing_metadata())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_name_the_fields_at_fault_first(harness: Harness) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    with refused(CODE.INVALID_ARGUMENT) as empty:
        await stub.SendMessage(pb.SendMessageRequest(tenant=tenant))
    assert empty.violations == ["message.message_id", "message.role", "message.parts"]
    hollow = sending("", tenant=tenant, data=None)
    hollow.message.parts.add()
    many = sending(tenant=tenant)
    many.message.parts.extend([pb.Part(text="x")] * 64)
    large = sending(tenant=tenant)
    json_format.ParseDict({"x": "y" * 70_000}, large.message.metadata)
    await publish(harness)
    for request, field in (
        (hollow, "message.parts[0]"),
        (many, "message.parts"),
        (large, "message.metadata"),
        (sending(tenant=tenant, configuration={"history_length": -1}), "configuration.history_length"),
        (sending(tenant=tenant, data={"a2a_context": "mine"}), "message.parts[1].data.a2a_context"),
        (sending(), "tenant"),
    ):
        with refused(CODE.INVALID_ARGUMENT) as refusal:
            await stub.SendMessage(request)
        assert refusal.violations == [field]
    for listing, field in (
        (pb.ListTasksRequest(page_size=0), "page_size"),
        (pb.ListTasksRequest(page_size=101), "page_size"),
        (pb.ListTasksRequest(page_token="AAAA"), "page_token"),
        (pb.ListTasksRequest(history_length=-1), "history_length"),
    ):
        with refused(CODE.INVALID_ARGUMENT) as refusal:
            await stub.ListTasks(listing)
        assert refusal.violations == [field]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_refuse_content_types_that_the_card_does_not_offer(harness: Harness) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    unread = sending(tenant=tenant)
    unread.message.parts[0].media_type = "text/html"
    file = sending(tenant=tenant)
    file.message.parts.add(raw=b"%PDF", filename="a.pdf")
    modes = {"accepted_output_modes": ["image/png"]}
    for request in (unread, file, sending(tenant=tenant, configuration=modes)):
        with refused(CODE.INVALID_ARGUMENT, "CONTENT_TYPE_NOT_SUPPORTED"):
            await stub.SendMessage(request)
    assert (await stub.ListTasks(pb.ListTasksRequest())).total_size == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_describe_the_agent_in_its_card_and_itself_in_reflection_and_health(harness: Harness) -> None:
    skill = a2a_pb2.A2ASkill(id="brief", name="Brief", tags=["text"], examples=["Brief me on ships"])
    tenant = await publish(harness, skills=[skill])
    card = await agent(harness).GetExtendedAgentCard(pb.GetExtendedAgentCardRequest())
    assert [(one.tenant, one.protocol_binding, one.protocol_version) for one in card.supported_interfaces] == [
        (tenant, "GRPC", "1.0"),
        (tenant, "GRPC", "0.3"),
    ]
    capabilities = card.capabilities
    assert (capabilities.streaming, capabilities.push_notifications, capabilities.extended_agent_card) == (
        True,
        True,
        True,
    )
    assert (card.version, [skill.id for skill in card.skills]) == ("1", ["brief"])
    assert list(card.default_input_modes) == list(card.default_output_modes) == ["text/plain", "application/json"]
    assert card.security_schemes["bearer"].http_auth_security_scheme.scheme == "Bearer"
    assert "bearer" in card.security_requirements[0].schemes
    schema = next(one.params for one in capabilities.extensions if one.uri.endswith("/inputs/v1"))
    assert list(schema["schema"]["required"]) == ["topic", "text"]
    channel = harness.channel("")
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{SERVICE}.SendMessage"),
    ]
    listed, described = [answer async for answer in reflection.ServerReflectionInfo(iter(requests))]
    assert SERVICE in [service.name for service in listed.list_services_response.service]
    assert len(described.file_descriptor_response.file_descriptor_proto) > 1


async def test_must_wait_for_the_end_and_return_artifacts_history_and_the_context(
    harness: Harness, worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []
    deliver = Sender.send

    async def noted(self: Sender, principal: Any, request: Any, metadata: Any) -> str:
        requests.append(request)
        return await deliver(self, principal, request, metadata)

    monkeypatch.setattr(Sender, "send", noted)
    caplog.set_level(logging.INFO, "coxswain.audit")

    def recorded() -> list[Any]:
        lines = [getattr(record, "audited", {}) for record in caplog.records]
        return [line for line in lines if str(line.get("method")).endswith("/SendMessage")]

    tenant = await publish(harness)
    stub = agent(harness)
    waiting = asyncio.create_task(send(stub, tenant=tenant, context_id="talk", configuration={}))
    (task_id,) = await _tasks_of(harness, 1)
    # While it waits it is recorded, as nobody knows whether this process outlives that; and its request is held by this
    # test and the argument alone.
    async with asyncio.timeout(60):
        while not recorded() or sys.getrefcount(requests[0]) > 2:
            await worker.row(task_id)
    await work_through(worker, task_id, "A brief.")
    task = await waiting
    assert (task.id, task.context_id, state(task)) == (task_id, "talk", "COMPLETED")
    (line,) = recorded()
    assert (line["outcome"], line["result"]) == ("OK", {"task.id": task_id})
    (artifact,) = task.artifacts
    assert (artifact.artifact_id, artifact.parts[0].text, artifact.parts[0].media_type) == (
        "result",
        "A brief.",
        "text/plain",
    )
    (said,) = task.history
    assert (said.role, said.task_id, said.context_id) == (pb.ROLE_USER, task_id, "talk")
    assert task.status.timestamp.nanos % 1_000_000 == 0
    execution = (await executions_of(harness).GetExecution(execution_pb2.GetExecutionRequest(id=task_id))).execution
    assert execution.labels["a2a"] == tenant
    assert execution.inputs["text"].string_value == "A coxswain steers."
    assert execution.inputs["topic"].string_value == "ships"
    for length, expected in ((0, 0), (1, 1), (5, 1)):
        read = await stub.GetTask(pb.GetTaskRequest(id=task_id, history_length=length, tenant=tenant))
        assert (len(read.history), len(read.artifacts)) == (expected, 1)


async def test_must_list_tasks_by_status_time_with_filters_and_pages(harness: Harness, worker: Worker) -> None:
    tenant, other = await publish(harness), await publish(harness)
    stub = agent(harness)
    made = [(await send(stub, tenant=tenant, context_id=context)).id for context in ("a", "a", "b")]
    elsewhere = (await send(stub, tenant=other)).id
    await work_through(worker, made[0])
    everything = await stub.ListTasks(pb.ListTasksRequest())
    assert [task.id for task in everything.tasks] == [made[0], elsewhere, made[2], made[1]]
    assert (everything.total_size, everything.page_size, everything.next_page_token) == (4, 50, "")
    assert not everything.tasks[0].artifacts
    assert len(everything.tasks[0].history) == 1
    first = await stub.ListTasks(pb.ListTasksRequest(tenant=tenant, page_size=2, include_artifacts=True))
    assert ([task.id for task in first.tasks], first.total_size) == ([made[0], made[2]], 3)
    assert first.tasks[0].artifacts
    token = first.next_page_token
    rest = await stub.ListTasks(pb.ListTasksRequest(tenant=tenant, page_size=2, page_token=token))
    assert ([task.id for task in rest.tasks], rest.next_page_token, rest.total_size) == ([made[1]], "", 3)
    with refused(CODE.INVALID_ARGUMENT):
        await stub.ListTasks(pb.ListTasksRequest(tenant=other, page_size=2, page_token=token))
    with refused(CODE.INVALID_ARGUMENT):
        await agent(harness, BOB).ListTasks(pb.ListTasksRequest(page_token=token))
    ended = everything.tasks[0].status.timestamp
    for chosen, expected in (
        ({"context_id": "a"}, [made[0], made[1]]),
        ({"status": pb.TASK_STATE_COMPLETED}, [made[0]]),
        ({"status": pb.TASK_STATE_SUBMITTED, "tenant": tenant}, [made[2], made[1]]),
        ({"status": pb.TASK_STATE_REJECTED}, []),
        ({"status_timestamp_after": ended}, [made[0]]),
    ):
        listed = await stub.ListTasks(pb.ListTasksRequest(**chosen))
        assert [task.id for task in listed.tasks] == expected, chosen
        assert listed.total_size == len(expected), chosen
    draft, asked = (await send(stub, tenant=tenant, data=None)).id, made[1]
    await worker.claim(asked)
    await ask(worker, asked)
    waiting = await stub.ListTasks(pb.ListTasksRequest(status=pb.TASK_STATE_INPUT_REQUIRED))
    assert [task.id for task in waiting.tasks] == [asked, draft]
    assert not (await stub.ListTasks(pb.ListTasksRequest(status=pb.TASK_STATE_WORKING))).tasks


async def test_must_cancel_what_has_not_ended_and_refuse_what_has(
    harness: Harness, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    queued = await send(stub, tenant=tenant)
    assert state(await stub.CancelTask(pb.CancelTaskRequest(id=queued.id))) == "CANCELED"
    draft = await send(stub, "", tenant=tenant)
    assert state(await stub.CancelTask(pb.CancelTaskRequest(id=draft.id))) == "CANCELED"
    ended = await send(stub, tenant=tenant)
    await work_through(worker, ended.id)
    for task in (queued, draft, ended):
        with refused(CODE.FAILED_PRECONDITION, "TASK_NOT_CANCELABLE"):
            await stub.CancelTask(pb.CancelTaskRequest(id=task.id))
    running = await send(stub, tenant=tenant)
    await worker.claim(running.id)
    requested: list[str] = []
    cancel = Executions.cancel

    async def noted(self: Executions, owner: Any, execution_id: str) -> Execution:
        cancelled = await cancel(self, owner, execution_id)
        requested.append(execution_id)
        return cancelled

    monkeypatch.setattr(Executions, "cancel", noted)
    # As long as a busy machine takes to tell that it has ended.
    monkeypatch.setattr("services.orchestrator.usecases.a2a.tasks._CANCEL_SECONDS", 60.0)
    cancelling = [asyncio.ensure_future(stub.CancelTask(pb.CancelTaskRequest(id=running.id))) for _ in range(2)]
    # One that came later would be told that the task has ended.
    await until(lambda: len(requested) == 2)
    await worker.end(running.id, ExecutionState.CANCELLED, execution_pb2.ExecutionCancelled())
    assert {state(task) for task in await asyncio.gather(*cancelling)} == {"CANCELED"}


async def test_must_ask_for_missing_inputs_and_start_when_they_are_there(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant, data=None)
    assert state(task) == "INPUT_REQUIRED"
    asked = task.status.message
    assert (asked.role, "topic" in asked.parts[0].text) == (pb.ROLE_AGENT, True)
    assert json_format.MessageToDict(asked.parts[1].data)["missing"][0]["name"] == "topic"
    with refused(CODE.INVALID_ARGUMENT) as refusal:
        await send(stub, tenant=tenant, task_id=task.id, context_id="another")
    assert refusal.violations == ["message.context_id"]
    still = await send(stub, "", task_id=task.id, data={"unknown": 1})
    assert (state(still), len(still.history)) == ("INPUT_REQUIRED", 2)
    started = await send(stub, "ships", task_id=task.id, data=None)
    assert (started.id, state(started), started.context_id) == (task.id, "SUBMITTED", task.context_id)
    execution_id = str(started.metadata["coxswain/execution"])
    inputs = (await worker.row(execution_id)).inputs
    assert (inputs["text"], inputs["topic"]) == ("A coxswain steers.", "ships")
    with refused(CODE.FAILED_PRECONDITION, "UNSUPPORTED_OPERATION"):
        await send(stub, task_id=task.id)
    await work_through(worker, execution_id)
    ended = await stub.GetTask(pb.GetTaskRequest(id=task.id))
    assert (state(ended), len(ended.history)) == ("COMPLETED", 3)
    with refused(CODE.FAILED_PRECONDITION, "UNSUPPORTED_OPERATION"):
        await send(stub, task_id=task.id)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_make_a_context_for_each_message_without_one(harness: Harness) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    made = [(await send(stub, tenant=tenant)).context_id for _ in range(2)]
    assert len(set(made)) == 2
    assert all(made)
    assert (await send(stub, tenant=tenant, context_id=made[0])).context_id == made[0]
    streamed = await stub.SendStreamingMessage(sending(tenant=tenant)).read()
    assert streamed.task.context_id not in ("", *made)


async def test_one_of_two_messages_that_complete_a_task_starts_it(harness: Harness) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant, data=None)
    results = await asyncio.gather(
        *(send(stub, word, task_id=task.id, data=None) for word in ("ships", "boats")), return_exceptions=True
    )
    refusals = [one for one in results if isinstance(one, grpc.aio.AioRpcError)]
    assert len(refusals) == 1
    assert refusals[0].code() == CODE.FAILED_PRECONDITION
    listed = await executions_of(harness).ListExecutions(execution_pb2.ListExecutionsRequest())
    assert len(listed.executions) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_cancel_that_a_message_is_faster_than_cancels_what_it_has_started(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant, data=None)
    read = A2ATasks.get

    async def then_start(self: A2ATasks, *arguments: Any, **named: Any) -> TaskView:
        view = await read(self, *arguments, **named)
        monkeypatch.undo()
        await send(stub, "ships", task_id=task.id, data=None)
        return view

    monkeypatch.setattr(A2ATasks, "get", then_start)
    assert state(await stub.CancelTask(pb.CancelTaskRequest(id=task.id))) == "CANCELED"
    execution = (await executions_of(harness).ListExecutions(execution_pb2.ListExecutionsRequest())).executions[0]
    assert execution.state == execution_pb2.EXECUTION_STATE_CANCELLED


async def test_copies_of_a_message_with_a_key_are_one(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness, a2a=a2a_pb2.A2ASpec(published=True, text_input="text"))
    changed = crew.spec
    changed.tasks[1].description = "Edit {topic} for {reader}"
    await crews(harness).UpdateCrew(
        crew_pb2.UpdateCrewRequest(id=crew.id, spec=changed, update_mask=FieldMask(paths=["tasks"]))
    )
    keyed = agent(harness, x_request_id=new_id())
    begun = sending(data=None)
    task, again = [answer.task for answer in await asyncio.gather(*(keyed.SendMessage(begun) for _ in range(2)))]
    assert again.id == task.id
    keyed = agent(harness, x_request_id="k" * 200)
    filling = sending("ships", task_id=task.id, data=None)
    copies = [answer.task for answer in await asyncio.gather(*(keyed.SendMessage(filling) for _ in range(3)))]
    assert [(copy.id, state(copy), len(copy.history)) for copy in copies] == [(task.id, "INPUT_REQUIRED", 2)] * 3
    # Another key, although its first 128 characters are the same.
    started = await send(agent(harness, x_request_id="k" * 201), "Ann", task_id=task.id, data=None)
    inputs = (await worker.row(str(started.metadata["coxswain/execution"]))).inputs
    assert {name: inputs[name] for name in ("topic", "reader")} == {"topic": "ships", "reader": "Ann"}
    filling.message.parts[0].text = "boats"
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await keyed.SendMessage(filling)
    assert (reused.value.code(), "k" * 200 in (reused.value.details() or "")) == (CODE.ALREADY_EXISTS, True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_copies_of_answers_are_said_once_and_those_of_deleted_tasks_are_told_so(
    harness: Harness, worker: Worker
) -> None:
    tenant = await publish(harness)
    stub, keyed = agent(harness), agent(harness, x_request_id=new_id())
    request = sending(tenant=tenant)
    task = (await keyed.SendMessage(request)).task
    await worker.claim(task.id)
    await ask(worker, task.id)
    answering, answer = agent(harness, x_request_id=new_id()), sending("approve", task_id=task.id, data=None)
    copies = await asyncio.gather(*(answering.SendMessage(answer) for _ in range(3)))
    assert [(copy.task.id, len(copy.task.history)) for copy in copies] == [(task.id, 3)] * 3
    # The next question is not what the copy was for.
    await worker.claim(task.id)
    await ask(worker, task.id)
    assert state((await answering.SendMessage(answer)).task) == "INPUT_REQUIRED"
    await stub.CancelTask(pb.CancelTaskRequest(id=task.id))
    await executions_of(harness).DeleteExecution(execution_pb2.DeleteExecutionRequest(id=task.id))
    with refused(CODE.FAILED_PRECONDITION, "UNSUPPORTED_OPERATION"):
        await keyed.SendMessage(request)


async def test_tasks_that_wait_too_long_for_inputs_are_cancelled(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    draft, started = await send(stub, "", tenant=tenant), await send(stub, tenant=tenant)
    for expected in ("CANCELED", None):
        async with worker.database.write() as connection:
            await A2ATaskRepository(connection).end_old_drafts(utc_now() + timedelta(seconds=1), 1)
        if expected:
            assert state(await stub.GetTask(pb.GetTaskRequest(id=draft.id))) == expected
    with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND"):
        await stub.GetTask(pb.GetTaskRequest(id=draft.id))
    assert state(await stub.GetTask(pb.GetTaskRequest(id=started.id))) == "SUBMITTED"


async def test_must_put_approvals_to_whoever_sent_the_message(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant)
    await worker.claim(task.id)
    question_id = await ask(worker, task.id)
    waiting = await stub.GetTask(pb.GetTaskRequest(id=task.id))
    assert state(waiting) == "INPUT_REQUIRED"
    asked = waiting.status.message
    assert (asked.message_id, [part.text for part in asked.parts[:2]]) == (
        question_id,
        ["Is this result good?", "draft"],
    )
    assert asked.parts[2].data.struct_value["schema"]["required"] == ["approved"]
    with pytest.raises(grpc.aio.AioRpcError) as operator:
        await send(agent(harness, OPERATOR), "approve", task_id=task.id, data=None)
    assert operator.value.code() == CODE.PERMISSION_DENIED
    with refused(CODE.INVALID_ARGUMENT):
        await send(stub, "", task_id=task.id, data={"approved": "perhaps"})
    answered = await send(stub, "Too long.", task_id=task.id, data=None)
    assert state(answered) == "WORKING"
    assert [said.role for said in answered.history] == [pb.ROLE_USER, pb.ROLE_AGENT, pb.ROLE_USER]
    question = await questions_of(harness).GetQuestion(question_pb2.GetQuestionRequest(id=question_id))
    assert question.question.decline_reason == "Too long."
    await worker.claim(task.id)
    await ask(worker, task.id)
    outcomes = await asyncio.gather(
        *(send(stub, "", task_id=task.id, data={"approved": answer}) for answer in (True, False)),
        return_exceptions=True,
    )
    refusals = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert [one.code() for one in refusals] == [CODE.FAILED_PRECONDITION]
    await worker.claim(task.id)
    await finish(worker, task.id)
    assert state(await stub.GetTask(pb.GetTaskRequest(id=task.id))) == "COMPLETED"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_check_answers_by_the_schema_of_the_question(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub, operator = agent(harness), agent(harness, OPERATOR)
    task = await send(stub, tenant=tenant)
    call = QuestionedCall("k", "c", 1, "ask_person", "", "{}")
    form = {"kind": QuestionKind.FORM, "schema": FORM, "role": Role.OPERATOR, "result": None, "call": call}
    for text, data, answered in (
        ("Ann", None, question_state_pb2.QUESTION_STATE_ACCEPTED),
        ("", {"name": "Ann"}, question_state_pb2.QUESTION_STATE_ACCEPTED),
        ("", {"action": "decline", "feedback": "no"}, question_state_pb2.QUESTION_STATE_DECLINED),
    ):
        await worker.claim(task.id)
        question_id = await ask(worker, task.id, text="Who?", **form)
        with refused(CODE.INVALID_ARGUMENT) as refusal:
            await send(stub, "", task_id=task.id, data={"name": 1})
        assert refusal.violations[0].startswith("message.parts[0].data")
        assert state(await send(operator, text, task_id=task.id, data=data)) == "WORKING"
        question = (await questions_of(harness).GetQuestion(question_pb2.GetQuestionRequest(id=question_id))).question
        assert question.state == answered
        if answered == question_state_pb2.QUESTION_STATE_ACCEPTED:
            assert json_format.MessageToDict(question.accepted_content) == {"name": "Ann"}


async def test_must_tell_the_task_first_and_close_streams_at_the_end(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    stream = stub.SendStreamingMessage(sending(tenant=tenant))
    first = (await stream.read()).task
    assert state(first) == "SUBMITTED"
    others = [stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=first.id, tenant=tenant)) for _ in range(2)]
    for other in others:
        assert (await other.read()).task.id == first.id
    others.pop().cancel()
    await worker.claim(first.id)
    await worker.emit(first.id, execution_pb2.TaskStarted(agent_role="Reader"))
    question_id = await ask(worker, first.id)
    told = [await stream.read() for _ in range(2)]
    assert [state(one.status_update) for one in told] == ["WORKING", "INPUT_REQUIRED"]
    assert told[1].status_update.status.message.message_id == question_id
    # What follows an answer comes on the same stream.
    await send(stub, "approve", task_id=first.id, data=None)
    await worker.claim(first.id)
    await finish(worker, first.id, "A brief.")
    told += [one async for one in stream]
    assert [one.WhichOneof("payload") for one in told[2:]] == ["status_update", "artifact_update", "status_update"]
    assert state(told[2].status_update) == "WORKING"
    artifact = told[3].artifact_update
    assert (artifact.append, artifact.last_chunk, artifact.artifact.parts[0].text) == (False, True, "A brief.")
    assert state(told[4].status_update) == "COMPLETED"
    (other,) = others
    assert [one async for one in other] == told
    with refused(CODE.FAILED_PRECONDITION, "UNSUPPORTED_OPERATION"):
        await stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=first.id)).read()
    uri = "https://example.com/coxswain/a2a/resume/v1"
    for position, one in enumerate(told):
        body = one.status_update if one.HasField("status_update") else one.artifact_update
        after = str(int(body.metadata["coxswain/sequence"]))
        resumed = agent(harness, a2a_extensions=uri, x_after_sequence=after)
        if position + 1 < len(told):
            again = resumed.SubscribeToTask(pb.SubscribeToTaskRequest(id=first.id))
            # The end comes with the artifact that is told before it.
            following = position if one.HasField("artifact_update") else position + 1
            assert [one async for one in again] == told[following:]
            assert dict(await again.trailing_metadata())["a2a-extensions"] == uri


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_task_that_asks_two_questions_puts_one_after_the_other(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant)
    await worker.claim(task.id)
    first = await worker.ask(task.id, 0)
    await worker.emit(task.id, execution_pb2.QuestionRaised(question_id=first))
    second = await ask(worker, task.id)
    stream = stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id))
    assert (await stream.read()).task.status.message.message_id == first
    await send(stub, "approve", task_id=task.id, data=None)
    await worker.claim(task.id)
    await worker.emit(task.id, execution_pb2.ExecutionParked(state=execution_pb2.EXECUTION_STATE_WAITING_FOR_ANSWER))
    assert state((await stream.read()).status_update) == "WORKING"
    assert (await stream.read()).status_update.status.message.message_id == second
    uri = "https://example.com/coxswain/a2a/resume/v1"
    resumed = agent(harness, a2a_extensions=uri, x_after_sequence="1").SubscribeToTask(
        pb.SubscribeToTaskRequest(id=task.id)
    )
    told = [(await resumed.read()).status_update.status.message.message_id for _ in range(3)]
    assert told == [first, "", second]


async def test_what_is_said_in_a_task_is_bounded_and_read_as_far_as_asked(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)

    def padded(size: int, **fields: Any) -> Any:
        request = sending("", data={"unknown": 1}, **fields)
        json_format.ParseDict({"x": "y" * size}, request.message.parts[0].metadata)
        return request

    with refused(CODE.INVALID_ARGUMENT) as large:
        await stub.SendMessage(padded(1024 * 1024, tenant=tenant))
    assert large.violations == ["message"]
    task = (await stub.SendMessage(padded(1_000_000, tenant=tenant))).task
    await stub.SendMessage(padded(1_000_000, task_id=task.id, message_id="second"))
    with refused(CODE.INVALID_ARGUMENT) as full:
        await stub.SendMessage(padded(1_000_000, task_id=task.id))
    assert full.violations == ["message"]
    for length, expected in ((0, []), (1, ["second"]), (None, [task.history[0].message_id, "second"])):
        read = await stub.GetTask(pb.GetTaskRequest(id=task.id, history_length=length))
        (listed,) = (await stub.ListTasks(pb.ListTasksRequest(history_length=length))).tasks
        for one in (read, listed):
            assert [said.message_id for said in one.history] == expected
    other = await send(stub, tenant=tenant, data=None)
    async with worker.database.write() as connection:
        rows = [{"task_id": other.id, "number": n, "payload": b"", "created_at": utc_now()} for n in range(1, 256)]
        await connection.execute(a2a_messages.insert(), rows)
    with refused(CODE.INVALID_ARGUMENT) as many:
        await send(stub, "ships", task_id=other.id, data=None)
    assert many.violations == ["message.task_id"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_streams_of_a_task_that_fails_say_why(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    stream = stub.SendStreamingMessage(sending(tenant=tenant))
    task = (await stream.read()).task
    await worker.claim(task.id)
    error = execution_pb2.ExecutionError(reason="MODEL_REFUSED", message="the model refused")
    await worker.end(task.id, ExecutionState.FAILED, execution_pb2.ExecutionFailed(error=error))
    (last,) = [one async for one in stream]
    assert state(last.status_update) == "FAILED"
    assert last.status_update.status.message.parts[0].text == "MODEL_REFUSED: the model refused"


async def test_what_resumes_a_task_is_another_one_of_its_context(harness: Harness, worker: Worker) -> None:
    await publish(harness)
    stub = agent(harness)
    draft = await send(stub, context_id="talk", data=None)
    begun = await send(stub, "ships", task_id=draft.id, data=None)
    execution_id = str(begun.metadata["coxswain/execution"])
    await worker.claim(execution_id)
    await worker.end(execution_id, ExecutionState.FAILED, execution_pb2.ExecutionFailed())
    request = execution_pb2.ResumeExecutionRequest(id=execution_id)
    resumed = (await executions_of(harness).ResumeExecution(request)).execution
    await executions_of(harness).ForkExecution(execution_pb2.ForkExecutionRequest(id=execution_id))
    await work_through(worker, resumed.id, "At last.")
    newer, older = (await stub.ListTasks(pb.ListTasksRequest(context_id="talk", include_artifacts=True))).tasks
    assert ((newer.id, state(newer)), (older.id, state(older))) == ((resumed.id, "COMPLETED"), (draft.id, "FAILED"))
    assert newer.metadata["coxswain/resumed_from"] == draft.id
    assert newer.artifacts[0].parts[0].text == "At last."
    assert "coxswain/resumed_from" not in older.metadata


async def test_repeated_message_ids_make_tasks_and_keys_do_not(harness: Harness) -> None:
    tenant = await publish(harness)
    for stub, same in (
        (agent(harness), False),
        (agent(harness, x_request_id="k1"), True),
        (agent(harness, a2a_extensions="https://example.com/coxswain/a2a/idempotent/v1"), True),
    ):
        for data in ({"topic": "ships"}, None):
            request = sending(tenant=tenant, data=data)
            first, second = [(await stub.SendMessage(request)).task for _ in range(2)]
            assert (first.id == second.id) is same
            if same:
                request.message.parts[0].text = "Another one."
                with pytest.raises(grpc.aio.AioRpcError) as reused:
                    await stub.SendMessage(request)
                assert reused.value.code() == CODE.ALREADY_EXISTS
            if same and data is not None:
                # The next one needs a key of its own.
                stub = agent(harness, x_request_id=new_id())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_context_carries_what_was_said_before(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness, a2a=a2a_pb2.A2ASpec(published=True, text_input="text"))
    changed = crew.spec
    changed.tasks[1].description = "Edit after {a2a_context} for {a2a_task_id}"
    await crews(harness).UpdateCrew(
        crew_pb2.UpdateCrewRequest(id=crew.id, spec=changed, update_mask=FieldMask(paths=["tasks"]))
    )
    stub = agent(harness)
    first = await send(stub, "Hello.", context_id="talk")
    await work_through(worker, first.id, "Good day.")
    second = await send(stub, "And now?", context_id="talk")
    inputs = (await worker.row(second.id)).inputs
    assert inputs["a2a_context"] == "User: Hello.\n\nAgent: Good day."
    assert inputs["a2a_task_id"] == second.id
    # Of a long talk the newest is kept.
    for number in range(6):
        await send(stub, f"{number}" * 12_000, context_id="talk")
    latest = (await worker.row((await send(stub, "Now?", context_id="talk")).id)).inputs["a2a_context"]
    assert len(latest.encode()) == 64 * 1024
    assert latest.endswith("User: " + "5" * 12_000)
    assert [str(number) * 12_000 in latest for number in range(6)] == [False, True, True, True, True, True]
    third = await send(stub, "Once more?", reference_task_ids=[first.id])
    assert (await worker.row(third.id)).inputs["a2a_context"] == inputs["a2a_context"]
    with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND"):
        await send(stub, reference_task_ids=[new_id()])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_files_and_results_of_all_tasks_where_a_crew_says_so(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness, file_input="topic", all_results=True)
    stub = agent(harness)
    request = sending(tenant=tenant, data=None)
    request.message.parts.add(raw=b"%PDF", filename="a.pdf", media_type="application/pdf")
    request.message.parts.add(url="https://example.com/b.pdf")
    task = (await stub.SendMessage(request)).task
    files = (await worker.row(task.id)).inputs["topic"]
    assert [(file["filename"], file.get("bytes"), file.get("url")) for file in files] == [
        ("a.pdf", "JVBERg==", None),
        ("", None, "https://example.com/b.pdf"),
    ]
    stream = stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id))
    await stream.read()
    await worker.claim(task.id)
    await worker.finish_task(task.id, 0, "Notes")
    await finish(worker, task.id)
    updates = [one.artifact_update.artifact async for one in stream if one.HasField("artifact_update")]
    ended = await stub.GetTask(pb.GetTaskRequest(id=task.id))
    assert [(one.artifact_id, one.parts[0].text) for one in updates] == [("read", "Notes"), ("result", "Steered.")]
    assert list(ended.artifacts) == updates


async def test_deleting_an_execution_deletes_its_task(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant)
    await work_through(worker, task.id)
    await executions_of(harness).DeleteExecution(execution_pb2.DeleteExecutionRequest(id=task.id))
    with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND"):
        await stub.GetTask(pb.GetTaskRequest(id=task.id))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_must_ask_for_credentials_like_every_method(harness: Harness) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await agent(harness, "dev:").GetTask(pb.GetTaskRequest(id="t"))
    assert caught.value.code() == CODE.UNAUTHENTICATED


async def _tasks_of(harness: Harness, count: int) -> list[str]:
    """Return the ids of the group's tasks when there are so many."""
    stub = agent(harness, ALICE)
    async with asyncio.timeout(60):
        while True:
            listed = (await stub.ListTasks(pb.ListTasksRequest())).tasks
            if len(listed) == count:
                return [task.id for task in listed]
