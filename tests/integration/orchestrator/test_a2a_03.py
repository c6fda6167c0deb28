"""A2A 0.3 over real gRPC: the same tasks for clients that speak no newer version."""

from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import pytest
from a2a.client import A2ACardResolver, ClientCallContext, ClientConfig, ClientFactory
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3.a2a_v0_3_pb2_grpc import A2AServiceStub
from a2a.compat.v0_3.types import AgentCard as AgentCard03
from a2a.types import a2a_pb2 as pb

from services.common.ids import new_id
from services.orchestrator.settings import OrchestratorSettings
from tests.integration.orchestrator.a2a_support import CODE, agent, ask, finish, publish, refused, send, state
from tests.integration.orchestrator.support import Worker
from tests.support.child_process import free_port
from tests.support.harness import ALICE, BOB, Harness, serve_services

SERVICE = "a2a.v1.A2AService"
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def client_of(harness: Harness, bearer: str = ALICE, **headers: str) -> Any:
    """Return the SDK's stub of 0.3; headers have `_` in place of `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return cast("Any", A2AServiceStub)(harness.channel(bearer, headers=named))


def sending(text: str = "A coxswain steers.", *, data: Any = ("topic", "ships"), **fields: Any) -> Any:
    """Return the request to send a message."""
    blocking = fields.pop("blocking", False)
    request = old.SendMessageRequest(configuration=old.SendMessageConfiguration(blocking=blocking))
    request.request.MergeFrom(old.Message(**{"message_id": new_id(), "role": old.ROLE_USER, **fields}))
    request.request.content.add(text=text)
    if data:
        request.request.content.add().data.data.update({data[0]: data[1]})
    return request


def state_of(task: Any) -> str:
    """Return where a task, or an update of its status, stands."""
    return old.TaskState.Name(task.status.state).removeprefix("TASK_STATE_")


async def test_a_task_is_one_task_in_both_versions(harness: Harness, worker: Worker) -> None:
    tenant = await publish(harness)
    stub, newer = client_of(harness), agent(harness)
    task = (await stub.SendMessage(sending())).task
    assert state_of(task) == "SUBMITTED"
    assert [part.WhichOneof("part") for part in task.history[0].content] == ["text", "data"]
    seen = await newer.GetTask(pb.GetTaskRequest(id=task.id, tenant=tenant))
    assert (state(seen), seen.context_id) == ("SUBMITTED", task.context_id)
    begun = await send(newer, tenant=tenant)
    read = await stub.GetTask(old.GetTaskRequest(name=f"tasks/{begun.id}"))
    assert (read.id, read.history[0].role, read.history[0].content[0].text) == (
        begun.id,
        old.ROLE_USER,
        "A coxswain steers.",
    )
    assert state_of(await stub.CancelTask(old.CancelTaskRequest(name=f"tasks/{begun.id}"))) == "CANCELLED"
    with refused(CODE.FAILED_PRECONDITION, "TASK_NOT_CANCELABLE"):
        await stub.CancelTask(old.CancelTaskRequest(name=f"tasks/{begun.id}"))
    await worker.claim(task.id)
    await finish(worker, task.id, "A brief.")
    ended = await stub.GetTask(old.GetTaskRequest(name=f"tasks/{task.id}"))
    assert (state_of(ended), ended.artifacts[0].parts[0].text) == ("COMPLETED", "A brief.")


async def test_streams_close_with_a_final_status_when_a_task_waits_or_ends(harness: Harness, worker: Worker) -> None:
    await publish(harness)
    stub = client_of(harness)
    stream = stub.SendStreamingMessage(sending())
    task = (await stream.read()).task
    await worker.claim(task.id)
    await ask(worker, task.id)
    (asked,) = [one.status_update async for one in stream]
    assert (state_of(asked), asked.final) == ("INPUT_REQUIRED", True)
    assert asked.status.update.content[0].text == "Is this result good?"
    answered = await stub.SendMessage(sending("approve", data=None, task_id=task.id))
    assert state_of(answered.task) == "WORKING"
    stream = stub.TaskSubscription(old.TaskSubscriptionRequest(name=f"tasks/{task.id}"))
    await stream.read()
    await worker.claim(task.id)
    await finish(worker, task.id, "A brief.")
    told = [one async for one in stream]
    assert (state_of(told[0].status_update), told[0].status_update.final) == ("WORKING", False)
    assert told[1].artifact_update.artifact.parts[0].text == "A brief."
    assert (state_of(told[2].status_update), told[2].status_update.final) == ("COMPLETED", True)
    with refused(CODE.FAILED_PRECONDITION, "UNSUPPORTED_OPERATION"):
        await stub.TaskSubscription(old.TaskSubscriptionRequest(name=f"tasks/{task.id}")).read()


async def test_missing_inputs_tenants_versions_and_refusals(harness: Harness) -> None:
    first, second = await publish(harness), await publish(harness)
    stub = client_of(harness)
    with refused(CODE.INVALID_ARGUMENT) as unnamed:
        await stub.SendMessage(sending())
    assert unnamed.violations == ["tenant"]
    by_header = (await client_of(harness, x_a2a_tenant=first).SendMessage(sending(data=None, blocking=True))).task
    assert state_of(by_header) == "INPUT_REQUIRED"
    request = sending("ships", data=None, task_id=by_header.id)
    assert state_of((await stub.SendMessage(request)).task) == "SUBMITTED"
    request = sending()
    request.metadata.update({"tenant": second})
    assert state_of((await stub.SendMessage(request)).task) == "SUBMITTED"
    with refused(CODE.UNIMPLEMENTED, "VERSION_NOT_SUPPORTED") as version:
        await client_of(harness, a2a_version="1.0").GetTask(old.GetTaskRequest(name="tasks/t"))
    assert version.metadata["supported"] == "0.3"
    for request in (old.GetTaskRequest(name=by_header.id), old.GetTaskRequest(name="tasks/a/b")):
        with refused(CODE.INVALID_ARGUMENT) as name:
            await stub.GetTask(request)
        assert name.violations == ["name"]
    for foreign in (by_header.id, new_id()):
        with refused(CODE.NOT_FOUND, "TASK_NOT_FOUND"):
            await client_of(harness, BOB).GetTask(old.GetTaskRequest(name=f"tasks/{foreign}"))


async def test_the_official_client_speaks_0_3_with_a_card_of_that_version(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    settings = {"orchestrator": OrchestratorSettings(a2a_http_port=port)}
    async with (
        serve_services(tmp_path, "models", "orchestrator", settings=settings) as harness,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        dev = "dev:dev:default=admin"
        tenant = await publish(harness, dev)
        own = await http.get(f"/a2a/{tenant}/0.3/agent-card.json")
        for path, headers in (
            ("/.well-known/agent.json", {}),
            ("/.well-known/agent-card.json", {"A2A-Version": "0.3"}),
            ("/.well-known/agent-card.json?A2A-Version=0.3", {}),
        ):
            assert (await http.get(path, headers=headers)).content == own.content
        card = AgentCard03.model_validate(own.json())
        assert (card.protocol_version, card.preferred_transport, card.capabilities.streaming) == ("0.3.0", "GRPC", True)
        by_grpc = await client_of(harness, dev).GetAgentCard(old.GetAgentCardRequest())
        assert (by_grpc.name, by_grpc.protocol_version) == (card.name, "0.3.0")
        # The group's default is another agent: the card says how this one is meant.
        named = await publish(harness, dev, is_default=True)
        found = await A2ACardResolver(http, str(http.base_url)).get_agent_card(
            relative_card_path=f"/a2a/{tenant}/0.3/agent-card.json"
        )
        (extension,) = found.capabilities.extensions
        assert (extension.required, extension.uri.endswith("/tenant/v1")) == (True, True)
        default = await http.get(f"/a2a/{named}/0.3/agent-card.json")
        assert not default.json()["capabilities"]["extensions"][0]["required"]
        config = ClientConfig(
            supported_protocol_bindings=["GRPC"],
            grpc_channel_factory=lambda _: grpc.aio.insecure_channel(harness.address),
            streaming=False,
            polling=True,
        )
        client = ClientFactory(config).create(found)
        message = pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text="the news")])
        parameters = {"authorization": f"Bearer {dev}", "x-a2a-tenant": extension.params["tenant"]}
        context = ClientCallContext(service_parameters=parameters)
        sent = [one async for one in client.send_message(pb.SendMessageRequest(message=message), context=context)]
        assert sent[-1].task.status.state == pb.TASK_STATE_INPUT_REQUIRED
        read = pb.GetTaskRequest(tenant=tenant, id=sent[-1].task.id)
        assert (await agent(harness, dev).GetTask(read)).id == sent[-1].task.id
        await client.close()
