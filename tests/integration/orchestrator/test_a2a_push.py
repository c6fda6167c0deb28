"""Push notifications of tasks over real gRPC, with a receiver on this machine."""

import asyncio
import functools
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from a2a.client import ClientCallContext, ClientConfig, ClientFactory
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3.types import Task as Task03
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.orchestrator.v1 import execution_pb2, webhook_pb2
from coxswain.orchestrator.v1.webhook_service_pb2_grpc import WebhookServiceStub
from services.common.ids import new_id
from services.orchestrator.domain.webhook import Webhook, event_of
from services.orchestrator.tables import webhook_deliveries, webhooks
from services.orchestrator.usecases import webhook_sender
from services.orchestrator.usecases.a2a import push_source
from services.orchestrator.usecases.a2a.push_source import PushSource
from services.orchestrator.usecases.a2a.views import read_views
from services.orchestrator.usecases.webhook_sources import Found
from tests.integration.orchestrator import test_a2a_03
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
    work_through,
)
from tests.integration.orchestrator.support import Worker, executions_of
from tests.support.harness import ALICE, BOB, Harness
from tests.support.http_emulator import Gate
from tests.support.webhook_receiver import Posted, WebhookReceiver

SECRETS = {"token": "tok-of-the-receiver", "credentials": "cred-of-the-receiver"}
RESUME = "https://example.com/coxswain/a2a/resume/v1"


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver() as started:
        yield started


def wanted(url: str, **fields: Any) -> pb.TaskPushNotificationConfig:
    """Return a config with secrets."""
    named = pb.AuthenticationInfo(scheme="Bearer", credentials=SECRETS["credentials"])
    return pb.TaskPushNotificationConfig(url=url, token=SECRETS["token"], authentication=named, **fields)


def configuration(url: str, **fields: Any) -> dict[str, Any]:
    return {"return_immediately": True, "task_push_notification_config": wanted(url, **fields)}


def told(posted: Posted) -> pb.StreamResponse:
    return json_format.ParseDict(posted.body, pb.StreamResponse())


def webhooks_of(harness: Harness, bearer: str = ALICE) -> Any:
    return WebhookServiceStub(harness.channel(bearer))


async def deliveries_of(harness: Harness, execution_id: str) -> tuple[Any, list[Any]]:
    """Return the only webhook of an execution, and its deliveries, newest first."""
    stub = webhooks_of(harness)
    listed = await stub.ListWebhooks(webhook_pb2.ListWebhooksRequest(execution_id=execution_id))
    (webhook,) = listed.webhooks
    return webhook, list(
        (await stub.ListWebhookDeliveries(webhook_pb2.ListWebhookDeliveriesRequest(webhook_id=webhook.id))).deliveries
    )


async def rows_of(worker: Worker, table: Any) -> list[Any]:
    async with worker.database.read() as connection:
        return list(await connection.execute(table.select()))


async def test_must_post_what_streams_tell_in_order_with_the_receivers_credentials(
    harness: Harness, worker: Worker, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # One answer of five is a failure, and the first one as well.
    receiver.fail_each, receiver.statuses = 5, [503]
    await publish(harness)
    stub = agent(harness)
    task = await send(stub, configuration=configuration(f"{receiver.url}/mine"))
    await worker.claim(task.id)
    await worker.emit(task.id, execution_pb2.TaskStarted(agent_role="Reader"))
    await ask(worker, task.id)
    await receiver.has(2, "/mine")
    assert state(await send(stub, "yes", task_id=task.id, data=None)) == "WORKING"
    await worker.claim(task.id)
    await finish(worker, task.id, "A brief.")
    posted = await receiver.has(5, "/mine")
    changes = [told(each) for each in posted]
    assert [each.WhichOneof("payload") for each in changes] == [
        *["status_update"] * 3,
        "artifact_update",
        "status_update",
    ]
    assert [state(each.status_update) for each in changes if each.HasField("status_update")] == [
        "WORKING",
        "INPUT_REQUIRED",
        "WORKING",
        "COMPLETED",
    ]
    assert changes[3].artifact_update.artifact.parts[0].text == "A brief."
    resumed = agent(harness, a2a_extensions=RESUME, x_after_sequence="0")
    streamed = [each async for each in resumed.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id))]
    assert changes == streamed
    for each in receiver.posted:
        assert each.headers["Content-Type"] == "application/a2a+json"
        assert each.headers["X-A2A-Notification-Token"] == SECRETS["token"]
        assert each.headers["Authorization"] == f"Bearer {SECRETS['credentials']}"
        assert "webhook-signature" not in each.headers
    keys = [each.headers["Idempotency-Key"] for each in posted]
    assert len(set(keys)) == 5
    assert {key.split("/")[0] for key in keys} == {task.id}
    # What was refused came again with the same key and body, before what follows it.
    assert list(dict.fromkeys((each.headers["Idempotency-Key"], each.raw) for each in receiver.posted)) == list(
        zip(keys, (each.raw for each in posted), strict=True)
    )
    # The release before could not open the credentials.
    assert all(row.paused for row in await rows_of(worker, webhooks))
    async with asyncio.timeout(60):
        while not (await rows_of(worker, webhooks))[0].finished:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    webhook, deliveries = await deliveries_of(harness, task.id)
    assert (webhook.task_id, webhook.execution_id) == (task.id, task.id)
    assert [each.sequence for each in deliveries] == sorted((each.sequence for each in deliveries), reverse=True)
    configs = await stub.ListTaskPushNotificationConfigs(pb.ListTaskPushNotificationConfigsRequest(task_id=task.id))
    said = [str(configs), str(webhook), str(deliveries), caplog.text, str([vars(one) for one in caplog.records])]
    said += [str(row) for table in (webhooks, webhook_deliveries) for row in await rows_of(worker, table)]
    assert not [secret for secret in SECRETS.values() for text in said if secret in text]
    # One that has ended can be posted once more.
    again = webhook_pb2.RetryWebhookDeliveryRequest(id=deliveries[-1].id)
    await webhooks_of(harness).RetryWebhookDelivery(again)
    assert (await receiver.has(6, "/mine"))[5].raw == posted[0].raw


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_configs_are_made_shown_listed_replaced_and_deleted(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    tenant = await publish(harness)
    stub = agent(harness)
    task = await send(stub)
    made = await stub.CreateTaskPushNotificationConfig(wanted(receiver.url, task_id=task.id, tenant=tenant))
    assert made == pb.TaskPushNotificationConfig(id=made.id, task_id=task.id, url=receiver.url)
    named = await stub.CreateTaskPushNotificationConfig(wanted(f"{receiver.url}/a", task_id=task.id, id="mine"))
    assert await stub.GetTaskPushNotificationConfig(_get(task.id, "mine")) == named
    # The same id is the same config.
    moved = await stub.CreateTaskPushNotificationConfig(wanted(f"{receiver.url}/b", task_id=task.id, id="mine"))
    assert (moved.id, moved.url) == ("mine", f"{receiver.url}/b")
    for number in range(6):
        await stub.CreateTaskPushNotificationConfig(wanted(receiver.url, task_id=task.id, id=f"more {number}"))
    with refused(CODE.INVALID_ARGUMENT) as refusal:
        await stub.CreateTaskPushNotificationConfig(wanted(receiver.url, task_id=task.id))
    assert refusal.violations == ["task_id"]
    first = await stub.ListTaskPushNotificationConfigs(_list(task.id, page_size=5))
    rest = await stub.ListTaskPushNotificationConfigs(_list(task.id, page_size=5, page_token=first.next_page_token))
    assert ([one.id for one in first.configs][:2], len(first.configs), len(rest.configs)) == ([made.id, "mine"], 5, 3)
    assert not rest.next_page_token
    for request, field in (
        (wanted("https://10.0.0.1/", task_id=task.id), "url"),
        (wanted("http://8.8.8.8/", task_id=task.id), "url"),
        (wanted("", task_id=task.id), "url"),
        (pb.TaskPushNotificationConfig(url=receiver.url, task_id=task.id, token="a\r\nb: c"), "token"),
        (wanted(receiver.url, task_id=task.id, id="x" * 65), "id"),
    ):
        with refused(CODE.INVALID_ARGUMENT) as refusal:
            await stub.CreateTaskPushNotificationConfig(request)
        assert refusal.violations == [field]
    with refused(CODE.INVALID_ARGUMENT) as refusal:
        await stub.SendMessage(sending(configuration=configuration("https://10.0.0.1/")))
    assert refusal.violations == ["configuration.task_push_notification_config.url"]
    for _ in range(2):
        await stub.DeleteTaskPushNotificationConfig(_delete(task.id, made.id))
    with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND"):
        await stub.GetTaskPushNotificationConfig(_get(task.id, made.id))
    # What is of another group is what never was.
    other, answers = agent(harness, BOB), set()
    for task_id in (task.id, new_id()):
        calls: list[Any] = [
            lambda task_id=task_id: other.CreateTaskPushNotificationConfig(wanted(receiver.url, task_id=task_id)),
            lambda task_id=task_id: other.GetTaskPushNotificationConfig(_get(task_id, "mine")),
            lambda task_id=task_id: other.ListTaskPushNotificationConfigs(_list(task_id)),
            lambda task_id=task_id: other.DeleteTaskPushNotificationConfig(_delete(task_id, "mine")),
        ]
        for call in calls:
            with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND") as refusal:
                await call()
            answers.add(refusal.message)
    assert len(answers) == 1
    assert await stub.GetTaskPushNotificationConfig(_get(task.id, "mine")) == moved
    # What an admin has paused stays so.
    hooks = webhooks_of(harness)
    listed = await hooks.ListWebhooks(webhook_pb2.ListWebhooksRequest(execution_id=task.id))
    mine = next(one for one in listed.webhooks if one.url == moved.url)
    for paused in (True, False):
        switch = webhook_pb2.UpdateWebhookRequest(
            id=mine.id, webhook=webhook_pb2.Webhook(paused=paused), update_mask=FieldMask(paths=["paused"])
        )
        await hooks.UpdateWebhook(switch)
        await agent(harness, OPERATOR).CreateTaskPushNotificationConfig(wanted(moved.url, task_id=task.id, id="mine"))
        assert (await hooks.GetWebhook(webhook_pb2.GetWebhookRequest(id=mine.id))).webhook.paused is paused
    await worker.claim(task.id)
    await ask(worker, task.id)
    await stub.CreateTaskPushNotificationConfig(wanted(receiver.url, task_id=task.id, id="eighth"))
    with refused(CODE.INVALID_ARGUMENT) as refusal:
        await send(stub, "yes", task_id=task.id, data=None, configuration=configuration(receiver.url, id="ninth"))
    assert refusal.violations == ["configuration.task_push_notification_config.task_id"]
    await send(stub, "yes", task_id=task.id, data=None)
    await work_through(worker, task.id)
    assert state(told((await receiver.has(4, "/b"))[3]).status_update) == "COMPLETED"
    assert not (await webhooks_of(harness).ListWebhooks(webhook_pb2.ListWebhooksRequest())).webhooks
    change = webhook_pb2.UpdateWebhookRequest(
        id=(await webhooks_of(harness).ListWebhooks(webhook_pb2.ListWebhooksRequest(execution_id=task.id)))
        .webhooks[0]
        .id,
        webhook=webhook_pb2.Webhook(url="https://example.com/elsewhere"),
        update_mask=FieldMask(paths=["url"]),
    )
    # An admin cannot have the credentials sent elsewhere.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await webhooks_of(harness).UpdateWebhook(change)
    assert caught.value.code() == CODE.INVALID_ARGUMENT


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_deleting_a_config_or_its_task_stops_what_is_queued_and_410_ends_it(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    await publish(harness)
    stub = agent(harness)
    receiver.gate = Gate()
    tasks = [
        await send(stub, configuration=configuration(f"{receiver.url}/{name}", id="c")) for name in ("config", "task")
    ]
    for number, task in enumerate(tasks):
        await worker.claim(task.id)
        await worker.emit(task.id, execution_pb2.TaskStarted(agent_role="Reader"))
        await receiver.changes.wait(functools.partial(_holds, receiver, number + 1))
        await finish(worker, task.id)
    await stub.DeleteTaskPushNotificationConfig(_delete(tasks[0].id, "c"))
    await executions_of(harness).DeleteExecution(execution_pb2.DeleteExecutionRequest(id=tasks[1].id))
    assert not await rows_of(worker, webhooks)
    assert not await rows_of(worker, webhook_deliveries)
    gate, receiver.gate = receiver.gate, None
    gate.release()
    receiver.statuses = [410]
    gone = await send(stub, configuration=configuration(f"{receiver.url}/gone"))
    await work_through(worker, gone.id)
    await receiver.changes.wait(lambda: [each.status for each in receiver.posted][2:] == [410])
    async with asyncio.timeout(60):
        while not (await deliveries_of(harness, gone.id))[0].gone:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    failed = webhook_pb2.WebhookDeliveryState.WEBHOOK_DELIVERY_STATE_FAILED
    assert [each.state for each in (await deliveries_of(harness, gone.id))[1]] == [failed] * 2
    # Nothing of the others came meanwhile, nor anything more here.
    assert {each.path for each in receiver.posted} == {"/config", "/task", "/gone"}
    assert len(receiver.posted) == 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("status", [401, 404, 503])
async def test_a_receiver_that_is_away_is_tried_again_and_one_that_stays_away_is_posted_nothing_more(
    harness: Harness, worker: Worker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(webhook_sender, "_MOST_ATTEMPTS", 2)
    await publish(harness)
    stub = agent(harness)
    receiver.statuses = [status]
    away = await send(stub, configuration=configuration(f"{receiver.url}/away"))
    await work_through(worker, away.id)
    await receiver.has(2, "/away")
    assert not (await deliveries_of(harness, away.id))[0].gone
    receiver.statuses = [status] * 2
    stays = await send(stub, configuration=configuration(f"{receiver.url}/stays", id="c"))
    await work_through(worker, stays.id)
    async with asyncio.timeout(60):
        while not (await deliveries_of(harness, stays.id))[0].gone:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    webhook, deliveries = await deliveries_of(harness, stays.id)
    failed = webhook_pb2.WebhookDeliveryState.WEBHOOK_DELIVERY_STATE_FAILED
    assert webhook.paused
    assert [(each.state, each.attempts) for each in deliveries] == [(failed, 0), (failed, 2)]
    assert [each.status for each in receiver.posted if each.path == "/stays"] == [status] * 2
    # Whoever stores it again has mended what kept the receiver from taking it, such as the token.
    await stub.CreateTaskPushNotificationConfig(wanted(f"{receiver.url}/stays", task_id=stays.id, id="c"))
    webhook, _ = await deliveries_of(harness, stays.id)
    assert (webhook.paused, webhook.gone) == (False, False)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_never_becomes_an_execution_posts_nothing(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    await publish(harness)
    stub = agent(harness)
    refusing = sending(data={"topic": "ships"}, configuration=configuration(f"{receiver.url}/refused"))
    refusing.message.parts.add(raw=b"x", media_type="image/png")
    with refused(CODE.INVALID_ARGUMENT, "CONTENT_TYPE_NOT_SUPPORTED"):
        await stub.SendMessage(refusing)
    assert not await rows_of(worker, webhooks)
    draft = await send(stub, data=None, configuration=configuration(f"{receiver.url}/draft"))
    assert state(await stub.CancelTask(pb.CancelTaskRequest(id=draft.id))) == "CANCELED"
    # What is posted behind it shows that nothing is on its way.
    task = await send(stub, configuration=configuration(f"{receiver.url}/task"))
    await work_through(worker, task.id)
    await receiver.has(2, "/task")
    assert {each.path for each in receiver.posted} == {"/task"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_task_that_waits_for_inputs_tells_of_its_execution_later_on(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    await publish(harness)
    stub = agent(harness)
    draft = await send(stub, data=None, configuration=configuration(f"{receiver.url}/draft"))
    assert state(draft) == "INPUT_REQUIRED"
    started = await send(
        stub, "ships", task_id=draft.id, data=None, configuration=configuration(f"{receiver.url}/later")
    )
    execution_id = started.metadata.fields["coxswain/execution"].string_value
    await work_through(worker, execution_id, "A brief.")
    for path in ("/draft", "/later"):
        artifact, ended = map(told, await receiver.has(2, path))
        assert (artifact.artifact_update.task_id, state(ended.status_update)) == (draft.id, "COMPLETED")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_official_client_keeps_configs_and_what_it_asks_for_is_posted(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    tenant = await publish(harness)
    card = await agent(harness).GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(tenant=tenant))
    config = ClientConfig(
        supported_protocol_bindings=["GRPC"],
        grpc_channel_factory=lambda _: grpc.aio.insecure_channel(harness.address),
        streaming=False,
        polling=True,
        push_notification_config=wanted(f"{receiver.url}/sent"),
    )
    client = ClientFactory(config).create(card)
    context = ClientCallContext(service_parameters={"authorization": f"Bearer {ALICE}"})
    (sent,) = [one async for one in client.send_message(sending(), context=context)]
    task_id = sent.task.id
    made = [
        await client.create_task_push_notification_config(
            wanted(f"{receiver.url}/{name}", task_id=task_id, id=name), context=context
        )
        for name in ("kept", "dropped")
    ]
    assert await client.get_task_push_notification_config(_get(task_id, "kept"), context=context) == made[0]
    await client.delete_task_push_notification_config(_delete(task_id, "dropped"), context=context)
    listed = await client.list_task_push_notification_configs(_list(task_id), context=context)
    assert [(one.task_id, one.url) for one in listed.configs] == [
        (task_id, f"{receiver.url}/{name}") for name in ("sent", "kept")
    ]
    await work_through(worker, task_id, "A brief.")
    for path in ("/sent", "/kept"):
        artifact, ended = map(told, await receiver.has(2, path))
        assert artifact.artifact_update.artifact.parts[0].text == "A brief."
        assert state(ended.status_update) == "COMPLETED"
    assert not receiver.taken("/dropped")
    await client.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_clients_of_0_3_are_posted_the_task_as_that_version_has_it(
    harness: Harness, worker: Worker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[tuple[PushSource, Webhook]] = []
    after = PushSource.after

    async def noted(self: PushSource, webhook: Webhook, limit: int) -> Found | None:
        asked_for.append((self, webhook))
        return await after(self, webhook, limit)

    monkeypatch.setattr(PushSource, "after", noted)
    await publish(harness)
    stub = test_a2a_03.client_of(harness)
    request = test_a2a_03.sending()
    push = request.configuration.push_notification
    push.id, push.url, push.token = "mine", f"{receiver.url}/sent", SECRETS["token"]
    push.authentication.schemes.append("Basic")
    push.authentication.credentials = SECRETS["credentials"]
    task = (await stub.SendMessage(request)).task
    parent = f"tasks/{task.id}"
    name = f"{parent}/pushNotificationConfigs/mine"
    shown = await stub.GetTaskPushNotificationConfig(old.GetTaskPushNotificationConfigRequest(name=name))
    assert shown == old.TaskPushNotificationConfig(
        name=name, push_notification_config=old.PushNotificationConfig(id="mine", url=f"{receiver.url}/sent")
    )
    config = old.TaskPushNotificationConfig(
        push_notification_config=old.PushNotificationConfig(url=f"{receiver.url}/made")
    )
    create = old.CreateTaskPushNotificationConfigRequest(parent=parent, config_id="other", config=config)
    made = await stub.CreateTaskPushNotificationConfig(create)
    listed = await stub.ListTaskPushNotificationConfig(old.ListTaskPushNotificationConfigRequest(parent=parent))
    assert list(listed.configs) == [shown, made]
    # What is queued for one of this version is no use to another.
    with refused(CODE.INVALID_ARGUMENT) as refusal:
        await agent(harness).CreateTaskPushNotificationConfig(wanted(receiver.url, task_id=task.id, id="mine"))
    assert refusal.violations == ["id"]
    delete = old.DeleteTaskPushNotificationConfigRequest(name=made.name)
    await stub.DeleteTaskPushNotificationConfig(delete)
    for bad in (
        stub.GetTaskPushNotificationConfig(old.GetTaskPushNotificationConfigRequest(name=parent)),
        stub.CreateTaskPushNotificationConfig(old.CreateTaskPushNotificationConfigRequest(parent="x", config=config)),
    ):
        with refused(CODE.INVALID_ARGUMENT):
            await bad
    await worker.claim(task.id)
    await ask(worker, task.id)
    (asked,) = await receiver.has(1, "/sent")
    assert (asked.headers["X-A2A-Notification-Token"], asked.headers["Authorization"]) == (
        SECRETS["token"],
        f"Basic {SECRETS['credentials']}",
    )
    waits = Task03.model_validate(json.loads(asked.raw))
    assert (waits.id, waits.status.state.value) == (task.id, "input-required")
    await stub.SendMessage(test_a2a_03.sending("approve", data=None, task_id=task.id))
    await worker.claim(task.id)
    # Each holds the task as it stands when it is made.
    await receiver.has(2, "/sent")
    await finish(worker, task.id, "A brief.")
    posted = [Task03.model_validate(json.loads(each.raw)) for each in await receiver.has(3, "/sent")]
    assert [each.status.state.value for each in posted] == ["input-required", "working", "completed"]
    assert "A brief." in str(posted[-1].artifacts)
    assert not receiver.taken("/made")
    # Large bodies are not made all at once, and the task is made into one once.
    source, webhook = asked_for[0]
    rendered = 0

    async def counted(*arguments: Any) -> Any:
        nonlocal rendered
        rendered += 1
        return await read_views(*arguments)

    monkeypatch.setattr(push_source, "read_views", counted)
    assert webhook.bound is not None
    webhook = replace(webhook, bound=replace(webhook.bound, sequence=0))
    found = await after(source, webhook, 100)
    assert found is not None
    assert (rendered, [event_of(each.sequence)[0] for each in found.deliveries]) == (1, [4, 6, 7])
    monkeypatch.setattr(push_source, "BYTES_AT_ONCE", 1)
    first = await after(source, webhook, 100)
    assert first is not None
    assert [each.sequence for each in first.deliveries] == [found.deliveries[0].sequence]
    assert isinstance(first.reached, int)
    assert webhook.bound is not None
    webhook = replace(webhook, bound=replace(webhook.bound, sequence=first.reached))
    second = await after(source, webhook, 100)
    assert second is not None
    assert [each.sequence for each in second.deliveries] == [found.deliveries[1].sequence]


def _holds(receiver: WebhookReceiver, count: int) -> bool:
    return receiver.held == count


def _get(task_id: str, config_id: str) -> pb.GetTaskPushNotificationConfigRequest:
    return pb.GetTaskPushNotificationConfigRequest(task_id=task_id, id=config_id)


def _list(task_id: str, **fields: Any) -> pb.ListTaskPushNotificationConfigsRequest:
    return pb.ListTaskPushNotificationConfigsRequest(task_id=task_id, **fields)


def _delete(task_id: str, config_id: str) -> pb.DeleteTaskPushNotificationConfigRequest:
    return pb.DeleteTaskPushNotificationConfigRequest(task_id=task_id, id=config_id)
