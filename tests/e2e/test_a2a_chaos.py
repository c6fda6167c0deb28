"""Official clients of A2A 1.0 and 0.3 have tasks done while worker hosts are killed every few seconds.

Every task ends as it should, all streams of it tell the same in one order, and nothing is told twice. `make chaos` runs
it. `CHAOS_TASKS` (default 15, of each client) and `CHAOS_SEED` (printed) say how many there are, and which hosts die.
"""

import asyncio
import json
import os
import random
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
from a2a.client import Client, ClientCallContext, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from a2a.utils.errors import UnsupportedOperationError

from coxswain.orchestrator.v1.a2a_pb2 import A2ASpec
from tests.e2e.support import Scene, kill_one_at_work
from tests.support.own_environment import ROOT, python_of
from tests.support.suite_process import SuiteProcess

_TOKEN = "dev:zoe:a2a-chaos=editor"
_METADATA = {"authorization": f"Bearer {_TOKEN}", "a2a-version": "1.0"}
_PROGRAMS = ROOT / "tests" / "support" / "a2a_03"
_AT_ONCE = 4
_SECONDS_BETWEEN_KILLS = 4.0
_RESULTS = ["first", "second", "result"]

Told = tuple[str, str, int]
"""Kind of an event, what it tells, and how far it goes."""


@dataclass(frozen=True)
class _Followed:
    """A task as a client saw it."""

    id: str
    cancels: bool
    state: str
    streams: Sequence[Sequence[Told]]


@pytest.mark.chaos
def test_tasks_of_official_clients_end_once_and_are_told_in_one_order_while_hosts_are_killed(
    scene: Scene, suite: SuiteProcess
) -> None:
    count = int(os.environ.get("CHAOS_TASKS", "15"))
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    dice = random.Random(seed)
    suite.restore_workers()
    for name in ("first", "second", "third"):
        scene.answers(name, f"Result of {name}.", latency_s=0.5)
    published = A2ASpec(published=True, is_default=True, text_input="topic", all_results=True)
    spec = scene.crew("first", "second", "third", a2a=published)
    spec.tasks[0].description += " about {topic}"
    with suite.caller(_TOKEN) as zoe:
        zoe.orchestrator.apply_crew(spec)
    address, done, kills = suite.address("orchestrator"), threading.Event(), 0
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(_with_03, address, count), pool.submit(lambda: asyncio.run(_with_10(address, count)))]
        for client in clients:
            client.add_done_callback(lambda _: done.set() if all(one.done() for one in clients) else None)
        while not done.wait(_SECONDS_BETWEEN_KILLS):
            kills += kill_one_at_work(suite, dice)
        followed = [one for client in clients for one in client.result()]
    print(f"{len(followed)} tasks, {kills} kills")
    assert kills > 2
    with suite.channel("orchestrator") as channel:
        stub = cast("Any", A2AServiceStub)(channel)
        listed = stub.ListTasks(pb.ListTasksRequest(page_size=100), metadata=tuple(_METADATA.items())).tasks
        assert sorted(task.id for task in listed) == sorted(one.id for one in followed)
        assert len(followed) == 2 * count
        for one in followed:
            _check(one, _whole(stub, one.id))


def _check(one: _Followed, whole: list[Told]) -> None:
    sequences = [sequence for _, _, sequence in whole]
    assert sequences == sorted(sequences)
    assert len(whole) == len(set(whole))
    ends = [told for kind, told, _ in whole if kind == "status-update" and told in {"completed", "canceled", "failed"}]
    results = [told for kind, told, _ in whole if kind == "artifact-update"]
    assert ends == [one.state]
    assert whole[-1][1] == one.state
    if one.cancels:
        # It may have been done before.
        assert one.state in {"canceled", "completed"}
    else:
        assert one.state == "completed"
    assert results == (_RESULTS if one.state == "completed" else _RESULTS[: len(results)])
    for stream in one.streams:
        (kind, _, began), *updates = stream
        assert kind == "task"
        assert updates == [event for event in whole if event[2] > began]


def _whole(stub: Any, task_id: str) -> list[Told]:
    """Return all that was ever told of a task."""
    resume = (("a2a-extensions", "https://example.com/coxswain/a2a/resume/v1"), ("x-after-sequence", "0"))
    stream = stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=task_id), metadata=(*_METADATA.items(), *resume))
    return [_told(event) for event in stream if not event.HasField("task")]


def _told(event: pb.StreamResponse) -> Told:
    kind = event.WhichOneof("payload")
    payload = getattr(event, kind or "")
    sequence = int(payload.metadata.fields["coxswain/sequence"].number_value)
    if event.HasField("artifact_update"):
        return "artifact-update", event.artifact_update.artifact.artifact_id, sequence
    return {"task": "task", "status_update": "status-update"}[kind or ""], _state(payload), sequence


def _state(task: pb.Task | pb.TaskStatusUpdateEvent) -> str:
    name = pb.TaskState.Name(task.status.state).removeprefix("TASK_STATE_")
    return name.lower().replace("_", "-")


def _with_03(address: str, count: int) -> list[_Followed]:
    python = python_of("a2a-03", _PROGRAMS / "client.txt")
    options = ("--address", address, "--token", _TOKEN, "--count", str(count))
    printed = subprocess.run(
        [python, _PROGRAMS / "many.py", *options], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    ).stdout
    found = []
    for line in printed.splitlines():
        task = json.loads(line)
        streams = [[tuple(event) for event in stream] for stream in task.pop("streams") if stream is not None]
        found.append(_Followed(**task, streams=streams))
    return found


async def _with_10(address: str, count: int) -> list[_Followed]:
    metadata = tuple(_METADATA.items())
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cast("Any", A2AServiceStub)(channel)
        card = await stub.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(), metadata=metadata)
    card.supported_interfaces[0].url = address
    config = ClientConfig(supported_protocol_bindings=["GRPC"], grpc_channel_factory=grpc.aio.insecure_channel)
    client = ClientFactory(config).create(card)
    places = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.timeout(600):
        found = await asyncio.gather(*(_work(client, number, places) for number in range(count)))
    await client.close()
    return found


async def _work(client: Client, number: int, places: asyncio.Semaphore) -> _Followed:
    """Send a message, leave its stream at once, subscribe to its task twice, and cancel every third one."""
    context = ClientCallContext(service_parameters=_METADATA)
    async with places:
        message = pb.Message(message_id=str(number), role=pb.ROLE_USER, parts=[pb.Part(text=f"ships {number}")])
        sent = client.send_message(pb.SendMessageRequest(message=message), context=context)
        task = (await anext(sent)).task
        await cast("Any", sent).aclose()
        begun = [asyncio.Event(), asyncio.Event()]
        following = [asyncio.create_task(_follow(client, task.id, one)) for one in begun]
        cancels = number % 3 == 2
        if cancels:
            await asyncio.gather(*(one.wait() for one in begun))
            await client.cancel_task(pb.CancelTaskRequest(id=task.id), context=context)
        streams = [stream for stream in await asyncio.gather(*following) if stream is not None]
        ended = await client.get_task(pb.GetTaskRequest(id=task.id), context=context)
    return _Followed(task.id, cancels, _state(ended), streams)


async def _follow(client: Client, task_id: str, begun: asyncio.Event) -> list[Told] | None:
    """Return what a subscription tells, or None where the task had ended before it."""
    context = ClientCallContext(service_parameters=_METADATA)
    told: list[Told] = []
    try:
        async for event in client.subscribe(pb.SubscribeToTaskRequest(id=task_id), context=context):
            told.append(_told(event))
            begun.set()
    except UnsupportedOperationError:
        return None
    finally:
        begun.set()
    return told
