"""Whole exchanges with agents: what groups tell of each other, many turns, lists and streams while tasks go on."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3.a2a_v0_3_pb2_grpc import A2AServiceStub as Stub03
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sqlalchemy import event, insert, text

from coxswain.orchestrator.v1 import execution_pb2
from services.common.ids import new_id
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository, TaskFilter
from services.orchestrator.tables import a2a_tasks
from tests.integration.orchestrator.a2a_support import (
    agent,
    ask,
    finish,
    publish,
    send,
    sending,
    state,
    work_through,
)
from tests.integration.orchestrator.support import Worker
from tests.support.harness import ALICE, BOB, Harness

Turn = tuple[str, str, list[tuple[str, str]]]
"""The task's id, its state, and what was said: by whom, and the text."""
TASKS, PAGE = 20, 5
MANY_TASKS = 10_000


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_of_another_group_is_answered_as_what_never_was(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    alice = agent(harness, x_request_id="shared")
    waiting = await send(alice, tenant=tenant, context_id="talk of Alice")
    await worker.claim(waiting.id)
    question_id = await ask(worker, waiting.id)
    draft = await send(agent(harness), "", tenant=tenant, data={"tone": "dry"})
    config = pb.TaskPushNotificationConfig(task_id=draft.id, id="config-of-alice", url="https://example.com/hook")
    made = await agent(harness).CreateTaskPushNotificationConfig(config)
    token = (await agent(harness).ListTasks(pb.ListTasksRequest(page_size=1))).next_page_token
    # The last one is Bob's own.
    await publish(harness, BOB)
    shapes = {"tenant": tenant, "context": "talk of Alice", "token": token, "config": made.id}
    before = await agent(harness).ListTasks(pb.ListTasksRequest())
    for task_id in (waiting.id, draft.id, question_id, waiting.id.upper(), f"{waiting.id} "):
        theirs = {**shapes, "task": task_id}
        answers = []
        for call in _calls_of(harness):
            told = []
            for values in (theirs, {name: _another(value) for name, value in theirs.items()}):
                answer = await _answer(call, values)
                for value in values.values():
                    answer = answer.replace(value, "<it>")
                told.append(answer)
            assert told[0] == told[1], theirs
            answers.append(told[0].partition(" ")[0])
        # Of a context there is an empty list, and a token of another group is none.
        assert Counter(answers) == {"StatusCode.NOT_FOUND": 24, "StatusCode.INVALID_ARGUMENT": 1, "{'pageSize':": 1}
    # A key and a context are each group's own.
    mine = await send(agent(harness, BOB, x_request_id="shared"), context_id="talk of Alice")
    assert (state(mine), mine.id != waiting.id, len(mine.history)) == ("SUBMITTED", True, 1)
    after = await agent(harness).ListTasks(pb.ListTasksRequest())
    assert list(after.tasks) == list(before.tasks)
    listing = pb.ListTaskPushNotificationConfigsRequest(task_id=draft.id)
    assert list((await agent(harness).ListTaskPushNotificationConfigs(listing)).configs) == [made]


def _calls_of(harness: Harness) -> list[Callable[[Mapping[str, str]], Awaitable[Any]]]:
    """Return what Bob asks for, by what he knows of Alice, in both versions."""
    stub, former = agent(harness, BOB), cast("Any", Stub03)(harness.channel(BOB))
    return [
        lambda v: stub.GetTask(pb.GetTaskRequest(id=v["task"])),
        lambda v: stub.GetTask(pb.GetTaskRequest(id=v["task"], tenant=v["tenant"])),
        lambda v: stub.CancelTask(pb.CancelTaskRequest(id=v["task"])),
        lambda v: stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=v["task"])).read(),
        lambda v: stub.SendMessage(sending("approve", data=None, task_id=v["task"])),
        lambda v: stub.SendMessage(sending("approve", data=None, task_id=v["task"], context_id=v["context"])),
        lambda v: stub.SendMessage(sending(tenant=v["tenant"])),
        lambda v: stub.SendMessage(sending(reference_task_ids=[v["task"]])),
        lambda v: stub.SendStreamingMessage(sending(task_id=v["task"])).read(),
        lambda v: stub.ListTasks(pb.ListTasksRequest(context_id=v["context"])),
        lambda v: stub.ListTasks(pb.ListTasksRequest(tenant=v["tenant"])),
        lambda v: stub.ListTasks(pb.ListTasksRequest(page_token=v["token"], page_size=1)),
        lambda v: stub.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(tenant=v["tenant"])),
        lambda v: former.GetTask(old.GetTaskRequest(name=f"tasks/{v['task']}")),
        lambda v: former.CancelTask(old.CancelTaskRequest(name=f"tasks/{v['task']}")),
        lambda v: former.TaskSubscription(old.TaskSubscriptionRequest(name=f"tasks/{v['task']}")).read(),
        lambda v: former.SendMessage(_sending_03("approve", None, v["task"])),
        lambda v: stub.CreateTaskPushNotificationConfig(_config(v)),
        lambda v: stub.GetTaskPushNotificationConfig(
            pb.GetTaskPushNotificationConfigRequest(task_id=v["task"], id=v["config"])
        ),
        lambda v: stub.ListTaskPushNotificationConfigs(pb.ListTaskPushNotificationConfigsRequest(task_id=v["task"])),
        lambda v: stub.DeleteTaskPushNotificationConfig(
            pb.DeleteTaskPushNotificationConfigRequest(task_id=v["task"], id=v["config"])
        ),
        lambda v: former.CreateTaskPushNotificationConfig(
            old.CreateTaskPushNotificationConfigRequest(
                parent=f"tasks/{v['task']}",
                config_id=v["config"],
                config=old.TaskPushNotificationConfig(
                    push_notification_config=old.PushNotificationConfig(url="https://example.com/hook")
                ),
            )
        ),
        lambda v: former.GetTaskPushNotificationConfig(
            old.GetTaskPushNotificationConfigRequest(name=f"tasks/{v['task']}/pushNotificationConfigs/{v['config']}")
        ),
        lambda v: former.ListTaskPushNotificationConfig(
            old.ListTaskPushNotificationConfigRequest(parent=f"tasks/{v['task']}")
        ),
        lambda v: former.DeleteTaskPushNotificationConfig(
            old.DeleteTaskPushNotificationConfigRequest(name=f"tasks/{v['task']}/pushNotificationConfigs/{v['config']}")
        ),
        lambda v: former.GetAgentCard(old.GetAgentCardRequest(), metadata=(("x-a2a-tenant", v["tenant"]),)),
    ]


def _config(values: Mapping[str, str]) -> pb.TaskPushNotificationConfig:
    return pb.TaskPushNotificationConfig(task_id=values["task"], id=values["config"], url="https://example.com/hook")


def _another(value: str) -> str:
    """Return a value of the same shape that nobody has."""
    return value.translate(str.maketrans("0123456789abcdefABCDEFklmnoT", "1032547698badcfeBADCFElknmoU"))


async def _answer(call: Callable[[Mapping[str, str]], Awaitable[Any]], values: Mapping[str, str]) -> str:
    """Return all that the answer to a call says, without what every call has of its own."""
    try:
        return str(json_format.MessageToDict(await call(values)))
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(cast("Any", error))
        assert status is not None
        own = error_details_pb2.RequestInfo.DESCRIPTOR
        details = [detail.value for detail in status.details if not detail.Is(own)]
        return f"{error.code()} {error.details()} {details}"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_a_task_of_many_turns_tells_all_that_was_said_in_its_order(
    harness: Harness, worker: Worker, version: str
) -> None:
    tenant = await publish(harness)
    say = _speaker(harness, tenant) if version == "1.0" else _speaker_03(harness, tenant)
    said = [("USER", "{tone}")]
    task_id, where, history = await say("", {"tone": "dry"}, "")
    assert (where, history) == ("INPUT_REQUIRED", said)

    said.append(("USER", "A coxswain steers."))
    assert await say("A coxswain steers.", None, task_id) == (task_id, "INPUT_REQUIRED", said)
    said.append(("USER", "ships"))
    assert await say("ships", None, task_id) == (task_id, "SUBMITTED", said)

    listed = await agent(harness).GetTask(pb.GetTaskRequest(id=task_id))
    execution_id = str(listed.metadata["coxswain/execution"])
    for answer in ("Too long.", "approve"):
        await worker.claim(execution_id)
        await ask(worker, execution_id)
        said += [("AGENT", "Is this result good?"), ("USER", answer)]
        assert await say(answer, None, task_id) == (task_id, "WORKING", said)
    await worker.claim(execution_id)
    await finish(worker, execution_id, "A brief.")
    ended = await agent(harness).GetTask(pb.GetTaskRequest(id=task_id))
    former = await cast("Any", Stub03)(harness.channel(ALICE)).GetTask(old.GetTaskRequest(name=f"tasks/{task_id}"))
    assert (state(ended), _said(ended)) == ("COMPLETED", said)
    assert _said_03(former) == said
    assert ended.artifacts[0].parts[0].text == former.artifacts[0].parts[0].text == "A brief."


def _speaker(harness: Harness, tenant: str) -> Callable[[str, Any, str], Awaitable[Turn]]:
    async def say(text: str, data: Any, task_id: str) -> Turn:
        task = await send(agent(harness), text, data=data, task_id=task_id, tenant=tenant)
        return task.id, state(task), _said(task)

    return say


def _speaker_03(harness: Harness, tenant: str) -> Callable[[str, Any, str], Awaitable[Turn]]:
    stub = cast("Any", Stub03)(harness.channel(ALICE, headers={"x-a2a-tenant": tenant}))

    async def say(text: str, data: Any, task_id: str) -> Turn:
        task = (await stub.SendMessage(_sending_03(text, data, task_id))).task
        where = old.TaskState.Name(task.status.state).removeprefix("TASK_STATE_")
        return task.id, where, _said_03(task)

    return say


def _sending_03(text: str, data: Any, task_id: str) -> Any:
    request = old.SendMessageRequest(request=old.Message(message_id=new_id(), role=old.ROLE_USER, task_id=task_id))
    if text:
        request.request.content.add(text=text)
    if data:
        request.request.content.add().data.data.update(data)
    return request


def _said(task: pb.Task) -> list[tuple[str, str]]:
    return [(pb.Role.Name(one.role).removeprefix("ROLE_"), one.parts[0].text or "{tone}") for one in task.history]


def _said_03(task: Any) -> list[tuple[str, str]]:
    return [(old.Role.Name(one.role).removeprefix("ROLE_"), one.content[0].text or "{tone}") for one in task.history]


async def test_pages_and_what_has_changed_since_have_every_task_while_tasks_go_on(
    harness: Harness, worker: Worker
) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    made = [(await send(stub, tenant=tenant)).id for _ in range(TASKS)]
    first = await stub.ListTasks(pb.ListTasksRequest(page_size=PAGE))
    began, page, paged, changed = first.tasks[0].status.timestamp, first, list(first.tasks), list[str]()
    while page.next_page_token:
        # One that was read, and one that was not.
        for task_id in (paged[-1].id, made[len(changed)]):
            if task_id not in changed:
                await work_through(worker, task_id)
                changed.append(task_id)
        page = await stub.ListTasks(pb.ListTasksRequest(page_size=PAGE, page_token=page.next_page_token))
        paged += page.tasks
        assert page.total_size == TASKS
    ids = [task.id for task in paged]
    assert len(set(ids)) == len(ids)
    assert set(made) - set(changed) <= set(ids)
    since = await stub.ListTasks(pb.ListTasksRequest(status_timestamp_after=began))
    assert {task.id for task in since.tasks if state(task) == "COMPLETED"} == set(changed)
    assert set(ids) | {task.id for task in since.tasks} == set(made)


@pytest.mark.large
async def test_ten_thousand_tasks_are_listed_by_the_index_each_once_while_they_change(
    harness: Harness, worker: Worker
) -> None:
    stub = agent(harness)
    first = await send(stub, "", tenant=await publish(harness), data={"tone": "dry"})
    async with worker.database.write() as connection:
        template = (await connection.execute(a2a_tasks.select().where(a2a_tasks.c.id == first.id))).one()._asdict()
        rows = [
            {**template, "id": new_id(), "status_time": template["status_time"] - timedelta(seconds=number)}
            for number in range(1, MANY_TASKS)
        ]
        await connection.execute(insert(a2a_tasks), rows)
        if connection.dialect.name == "postgresql":
            await connection.execute(text("ANALYZE a2a_tasks"))
    made, seen, changed = {first.id, *(row["id"] for row in rows)}, list[str](), set[str]()
    request = pb.ListTasksRequest(page_size=100, history_length=0)
    while True:
        page = await stub.ListTasks(request)
        assert page.total_size == MANY_TASKS
        seen += [task.id for task in page.tasks]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
        # One that was read, and one that was not.
        for task_id in {seen[-1], rows[-len(changed) - 1]["id"]} - changed:
            await stub.CancelTask(pb.CancelTaskRequest(id=task_id))
            changed.add(task_id)
    assert len(set(seen)) == len(seen)
    assert made - changed <= set(seen) <= made
    plans = await _plans_of_pages(worker, template["group_id"], template["tenant"], rows[MANY_TASKS // 2])
    assert all("ix_a2a_tasks_group_id" in plan and "temp b-tree" not in plan.lower() for plan in plans), plans


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_pages_of_tasks_are_read_by_the_index(harness: Harness, worker: Worker) -> None:
    task = await send(agent(harness), tenant=await publish(harness))
    async with worker.database.read() as connection:
        row = (await connection.execute(a2a_tasks.select().where(a2a_tasks.c.id == task.id))).one()._asdict()
    plans = await _plans_of_pages(worker, row["group_id"], row["tenant"], row)
    assert "ix_a2a_tasks_group_id_status_time_id (group_id=? AND status_time<?)" in plans[0]
    assert "ix_a2a_tasks_group_id_tenant_status_time_id (group_id=? AND tenant=? AND status_time<?)" in plans[1]
    assert not [plan for plan in plans if "TEMP B-TREE" in plan]


async def _plans_of_pages(worker: Worker, group_id: str, tenant: str, after: Mapping[str, Any]) -> list[str]:
    """Return how the database reads the page after a task: of the group, and of the tenant."""
    plans = []
    async with worker.database.read() as connection:
        asked: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        event.listen(connection.sync_connection, "before_cursor_execute", note)
        before = after["status_time"], after["id"]
        for chosen in (TaskFilter(), TaskFilter(tenant=tenant)):
            await A2ATaskRepository(connection).page(group_id, chosen, before, 11)
        event.remove(connection.sync_connection, "before_cursor_execute", note)
        explain = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        for statement, parameters in asked:
            plans.append(str((await connection.exec_driver_sql(f"{explain} {statement}", parameters)).all()))
    return plans


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("count", "events"), [(12, 40), pytest.param(50, 1000, marks=pytest.mark.large)])
async def test_all_streams_of_a_task_tell_the_same_and_a_slow_reader_delays_none(
    harness: Harness, worker: Worker, count: int, events: int
) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub, tenant=tenant)
    streams = [stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id)) for _ in range(count)]
    for stream in streams:
        assert (await stream.read()).task.id == task.id
    slow, *quick = streams
    await worker.claim(task.id)
    reading = [asyncio.create_task(_rest(stream)) for stream in quick]
    for number in range(events):
        await worker.emit(task.id, execution_pb2.TaskStarted(agent_role=f"Reader {number}"))
    await finish(worker, task.id, "A brief.")
    told = await asyncio.gather(*reading)
    assert [len(one) for one in told] == [events + 2] * (count - 1)
    assert all(one == told[0] for one in told)
    sequences = [one.status_update.metadata.fields["coxswain/sequence"].number_value for one in told[0][:events]]
    assert sequences == sorted(set(sequences))
    assert await _rest(slow) == told[0]


async def _rest(stream: Any) -> list[pb.StreamResponse]:
    return [one async for one in stream]
