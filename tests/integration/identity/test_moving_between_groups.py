"""Who moves to another group with open streams hears no more of the old group, and on them nothing of the new one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.auth.v1 import group_pb2, principal_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.common.v1 import access_pb2
from coxswain.orchestrator.v1 import execution_pb2, question_pb2
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal
from tests.integration.identity.support import PRINCIPAL_SECONDS, World, add_crew, serve_world
from tests.support.waiting import until

SLACK_SECONDS = 60
"""What a busy machine may take beyond a stated time. Without any check, the streams would never end."""


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with serve_world(tmp_path, monkeypatch, service_principal=False) as served:
        yield served


class Heard:
    """An open stream, and the executions that it has told of."""

    def __init__(self, call: Any) -> None:
        self.executions: set[str] = set()
        self.stands = asyncio.Event()
        """Set with its first response: the stream tells of all that happens from then on."""
        self.told = asyncio.Event()
        """Set with the first of the executions."""
        self._task = asyncio.create_task(self._listen(call))

    async def reach(self, point: asyncio.Event) -> None:
        """Wait for one of the events. Raises AssertionError: the stream has ended before."""
        await until(lambda: point.is_set() or self._task.done())
        assert point.is_set(), f"the stream has ended: {await self._task}"

    async def ended(self) -> str:
        """Return the code with which it ends."""
        async with asyncio.timeout(PRINCIPAL_SECONDS + SLACK_SECONDS):
            return await self._task

    @property
    def is_open(self) -> bool:
        return not self._task.done()

    async def _listen(self, call: Any) -> str:
        try:
            async for response in call:
                self.stands.set()
                told = getattr(response, "event", None) or getattr(response, "question", None)
                if told is not None and told.execution_id:
                    self.executions.add(told.execution_id)
                    self.told.set()
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


@contextlib.asynccontextmanager
async def nobody_asks_about(token: str, world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Keep auth from being asked whose a token is until the block ends: in between it would give another answer."""
    identity: Any = world.harness.services["auth"]
    exchange, ended = identity.exchange, asyncio.Event()

    async def exchange_afterwards(credential: Credential, group_id: str) -> Principal:
        if credential.forwarded_access_token == token:
            await ended.wait()
        return await exchange(credential, group_id)  # type: ignore[no-any-return]

    monkeypatch.setattr(identity, "exchange", exchange_afterwards)
    try:
        yield
    finally:
        ended.set()


async def test_streams_end_when_their_caller_moves_to_another_group(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add_member("bob")
    evil = await world.add_group("eve")
    ann, eve = world.channel(world.token("ann")), world.channel(world.token("eve"))
    crews = {channel: await add_crew(channel) for channel in (ann, eve)}

    async def start(channel: Any) -> str:
        request = execution_pb2.StartExecutionRequest(crew_id=crews[channel])
        return str((await ExecutionServiceStub(channel).StartExecution(request)).execution.id)

    of_sales, of_evil = {await start(ann)}, {await start(eve)}
    token = world.token("bob")
    watcher: Any = ExecutionServiceStub(world.channel(token))
    questions: Any = QuestionServiceStub(world.channel(token))
    streams = [
        Heard(watcher.WatchExecution(execution_pb2.WatchExecutionRequest(id=next(iter(of_sales))))),
        Heard(watcher.WatchExecutions(execution_pb2.WatchExecutionsRequest())),
        Heard(watcher.WatchExecutions(execution_pb2.WatchExecutionsRequest(crew_id=crews[ann]))),
        Heard(questions.WatchQuestions(question_pb2.WatchQuestionsRequest())),
    ]
    for stream in streams[:3]:
        await stream.reach(stream.stands)
    of_sales.add(await start(ann))
    await streams[1].reach(streams[1].told)
    # The last one says nothing before there is a question.
    places: Any = world.harness.host._listeners[0]._pipeline._capacity.group_streams
    await until(lambda: places.held("sales") == len(streams))

    async with nobody_asks_about(token, world, monkeypatch):
        remove = group_pb2.RemoveMemberRequest(subject=world.subject("bob"))
        await world.groups(world.token("ann")).RemoveMember(remove)
        invite = group_pb2.SetMemberRequest(subject=world.subject("bob"), role=access_pb2.ROLE_ADMIN)
        await world.groups(world.token("eve")).SetMember(invite)
        auth = AuthServiceStub(world.channel(world.token("bob"), evil))
        accepted = await auth.WhoAmI(principal_pb2.WhoAmIRequest())
        assert accepted.principal.group_id == evil

    # Both groups go on for as long as anything is open.
    async with asyncio.timeout(PRINCIPAL_SECONDS + SLACK_SECONDS):
        while any(stream.is_open for stream in streams):
            of_sales.add(await start(ann))
            of_evil.add(await start(eve))
    assert {await stream.ended() for stream in streams} == {"PERMISSION_DENIED"}
    for stream in streams:
        assert stream.executions <= of_sales
        assert not stream.executions & of_evil

    late = await start(ann)
    again = Heard(watcher.WatchExecutions(execution_pb2.WatchExecutionsRequest()))
    refused = Heard(watcher.WatchExecution(execution_pb2.WatchExecutionRequest(id=late)))
    assert await refused.ended() == "NOT_FOUND"
    await again.reach(again.stands)
    of_evil.add(await start(eve))
    await again.reach(again.told)
    assert again.executions <= of_evil
