"""RenewExecutionCredential: who may let an execution go on, when, and with what."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from a2a.types import a2a_pb2 as a2a
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from coxswain.auth.v1 import group_pb2, principal_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.common.v1 import access_pb2
from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.auth.settings import AuthSettings
from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import SERVICES
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import executions
from tests.integration.orchestrator.a2a_support import agent, publish, send, sending, state
from tests.integration.orchestrator.a2a_support import refused as a2a_refused
from tests.integration.orchestrator.support import Worker, executions_of, refused, start, working
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity
from tests.support.harness import BOB, Harness, serve_services

COLLEAGUE = "dev:carol:sales=admin"
KEY_RING = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def renewal(execution: pb.Execution) -> pb.RenewExecutionCredentialRequest:
    return pb.RenewExecutionCredentialRequest(id=execution.id)


async def park(worker: Worker, execution: pb.Execution) -> None:
    """Claim it and let it wait for a credential, as a host does."""
    await worker.claim(execution.id)
    async with worker.database.write() as connection:
        await connection.execute(
            executions.update()
            .where(executions.c.id == execution.id)
            .values(state=ExecutionState.WAITING_FOR_CREDENTIAL)
        )


async def test_another_group_renews_nothing_and_learns_nothing(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await park(worker, made)
    before = tuple(await worker.row(made.id))
    messages = set()
    for id_ in (made.id, "no-such-execution"):
        with refused(StatusCode.NOT_FOUND, "NOT_FOUND") as refusal:
            await executions_of(harness, BOB).RenewExecutionCredential(pb.RenewExecutionCredentialRequest(id=id_))
        messages.add(refusal.message.replace(id_, "ID"))
    assert len(messages) == 1
    assert tuple(await worker.row(made.id)) == before


async def test_what_has_ended_needs_no_credential(harness: Harness) -> None:
    stub = executions_of(harness)
    made = await start(harness)
    await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))
    with refused(StatusCode.FAILED_PRECONDITION, "EXECUTION_STATE") as refusal:
        await stub.RenewExecutionCredential(renewal(made))
    assert refusal.metadata == {"execution_id": made.id, "state": "CANCELLED"}


async def test_an_execution_without_a_users_token_says_so(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await park(worker, made)
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
        await executions_of(harness).RenewExecutionCredential(renewal(made))
    assert "does not act with a token of yours" in refusal.message
    with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
        await executions_of(harness, COLLEAGUE).RenewExecutionCredential(renewal(made))
    assert (await worker.row(made.id)).state == ExecutionState.WAITING_FOR_CREDENTIAL


# With the tokens of a workspace


@pytest.fixture
async def identity() -> AsyncIterator[DatabricksIdentity]:
    async with DatabricksIdentity() as identity:
        yield identity


@pytest.fixture
async def guarded(database_url: str, tmp_path: Path, identity: DatabricksIdentity) -> AsyncIterator[Harness]:
    """Services in databricks mode. Ann and Bob are admins of the same group."""
    for service in SERVICES:
        ServiceIdentity.load(tmp_path / "keys", service, create=True)
    settings = {
        "auth": AuthSettings(
            key_ring=KEY_RING,
            databricks_hosts=(identity.url,),
            databricks_audiences=(WORKSPACE_ID,),
            bootstrap_admin=f"{identity.issuer}|ann@example.com",
            bootstrap_group="sales",
        ),
        "orchestrator": OrchestratorSettings(watch_safety_read_seconds=3600, housekeeping_seconds=3600),
    }
    async with serve_services(
        tmp_path, "models", "orchestrator", database_url=database_url, settings=settings, identity_mode="databricks"
    ) as served:
        groups = GroupServiceStub(served.channel(token(identity, "ann")))
        await groups.SetMember(
            group_pb2.SetMemberRequest(subject=f"{identity.issuer}|bob@example.com", role=access_pb2.ROLE_ADMIN)
        )
        bob = AuthServiceStub(served.channel(token(identity, "bob"), group="sales"))
        await bob.WhoAmI(principal_pb2.WhoAmIRequest())
        yield served


def token(identity: DatabricksIdentity, name: str) -> str:
    """Return a fresh token of somebody in the workspace."""
    return identity.mint(identity.add_user(f"{name}@example.com"))


async def test_who_started_it_lets_it_go_on_and_an_admin_of_the_group_does_not(
    guarded: Harness, identity: DatabricksIdentity, database_url: str
) -> None:
    async with working(guarded, database_url) as worker:
        made = await start(guarded, token(identity, "ann"))
        await park(worker, made)
        with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
            await executions_of(guarded, token(identity, "bob")).RenewExecutionCredential(renewal(made))
        assert (await worker.row(made.id)).generation == 1

        stub = executions_of(guarded, token(identity, "ann"))
        renewed = [(await stub.RenewExecutionCredential(renewal(made))).execution for _ in range(2)]
        row = await worker.row(made.id)

    assert {execution.state for execution in renewed} == {pb.EXECUTION_STATE_QUEUED}
    assert (row.ready, row.generation) == (True, 2), "a repeated renewal wakes it once"


async def test_who_sent_a_task_of_a2a_lets_it_go_on_by_a_message_with_a_fresh_credential(
    guarded: Harness, identity: DatabricksIdentity, database_url: str
) -> None:
    async with working(guarded, database_url) as worker:
        tenant = await publish(guarded, token(identity, "ann"))
        ann, bob = agent(guarded, token(identity, "ann")), agent(guarded, token(identity, "bob"), x_group_id="sales")
        made = await send(ann, tenant=tenant)
        await park(worker, pb.Execution(id=made.id))
        waiting = await bob.GetTask(a2a.GetTaskRequest(id=made.id))
        assert state(waiting) == "AUTH_REQUIRED"
        words, named = waiting.status.message.parts
        assert "fresh credential of the same subject" in words.text
        subject = (await worker.row(made.id)).subject
        assert MessageToDict(named.data) == {"credential": "user_token", "subject": subject}
        with a2a_refused(StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_OPERATION"):
            await send(bob, task_id=made.id)
        assert (await worker.row(made.id)).generation == 1
        config = a2a.TaskPushNotificationConfig(url="https://example.com/", task_id=made.id)
        for _ in range(8):
            await ann.CreateTaskPushNotificationConfig(config)
        one_too_many = {"return_immediately": True, "task_push_notification_config": config}
        with a2a_refused(StatusCode.INVALID_ARGUMENT):
            await ann.SendMessage(sending("Go on.", task_id=made.id, data=None, configuration=one_too_many))
        assert (await worker.row(made.id)).generation == 1, "what is refused does not let it go on"
        keyed = agent(guarded, token(identity, "ann"), x_request_id="go-on")
        going_on = sending("Go on.", task_id=made.id, data=None)
        for copy in await asyncio.gather(*(keyed.SendMessage(going_on) for _ in range(3))):
            assert state(copy.task) == "WORKING"
        renewed = (await keyed.SendMessage(going_on)).task
    assert [said.parts[0].text for said in renewed.history] == ["A coxswain steers.", "Go on."]


async def test_renewing_in_time_changes_nothing_but_the_credential(
    guarded: Harness, identity: DatabricksIdentity, database_url: str
) -> None:
    async with working(guarded, database_url) as worker:
        made = await start(guarded, token(identity, "ann"))
        await worker.claim(made.id)
        before = tuple(await worker.row(made.id))
        stub = executions_of(guarded, token(identity, "ann"))
        renewed = (await stub.RenewExecutionCredential(renewal(made))).execution
        assert renewed.state == pb.EXECUTION_STATE_RUNNING
        assert tuple(await worker.row(made.id)) == before
