"""A workspace sees whose call it is: the user at the other end of three hops, or nobody."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from coxswain.models.v1 import model_pb2
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from tests.integration.auth.support import refused
from tests.integration.identity.support import World, question, save, search, serve_world
from tests.support.waiting import longer

AT_ONCE = 100
CALLS = 600


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """On SQLite alone: no database decides whose token is sent."""
    async with serve_world(tmp_path, monkeypatch, service_principal=True) as served:
        yield served


def bearers(world: World) -> set[str | None]:
    """Return every credential the workspace's models were called with."""
    return {call.bearer for call in world.workspace.llm.calls}


async def test_each_service_on_the_way_calls_the_workspace_as_the_user(world: World) -> None:
    token = world.token("ann")
    await world.memory(token).SaveRecords(save("cats sleep a lot"))
    found = await world.memory(token).SearchRecords(search("cats"))
    assert [result.record.unified.content for result in found.results] == ["cats sleep a lot"]
    await world.inference(token).Complete(question("What do cats do?"))
    routes = [call.route for call in world.workspace.llm.calls]
    assert sorted(set(routes)) == ["chat", "embeddings"]
    assert bearers(world) == {token}
    assert not world.workspace.identity.requests(path="/oidc/v1/token"), "the service principal was not even signed in"


async def token_that_was_used_and_ran_out(world: World) -> str:
    """Return a token with which a memory was saved while it was good, once it is good no more."""
    times = longer(10)
    while True:
        good_for = next(times)
        # Tokens count as expired 40 seconds early.
        token = world.token("ann", expires_in_s=40 + good_for)
        ends = time.time() + good_for
        try:
            await world.memory(token).SaveRecords(save("cats sleep a lot"))
        except grpc.aio.AioRpcError as error:
            if error.code() is not StatusCode.UNAUTHENTICATED:
                raise
            # A busy machine was too slow for this one.
            world.workspace.llm.clear_log()
        else:
            await asyncio.sleep(ends - time.time())
            return token


async def test_when_a_token_runs_out_during_use_nobody_else_is_used(world: World) -> None:
    token = await token_that_was_used_and_ran_out(world)
    used = len(world.workspace.llm.calls)
    # What was remembered of the caller and the credential lasts no longer than the token.
    for call in (world.memory(token).SearchRecords(search("cats")), world.inference(token).Complete(question("?"))):
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
            await call
    assert len(world.workspace.llm.calls) == used
    assert bearers(world) == {token}


async def test_a_token_the_workspace_refuses_is_the_callers_own_trouble(world: World) -> None:
    token = world.token("ann")
    await world.memory(token).SaveRecords(save("cats sleep a lot"))
    world.workspace.identity.revoke(token)
    for call in (world.memory(token).SearchRecords(search("cats")), world.inference(token).Complete(question("?"))):
        with refused(StatusCode.UNAUTHENTICATED, "UPSTREAM_CREDENTIAL_REJECTED") as refusal:
            await call
        assert token not in refusal.message
    assert bearers(world) == {token}


async def test_callers_at_once_are_never_taken_for_each_other(world: World) -> None:
    names = ["ann", "bob", "eve"]
    for name in names[1:]:
        await world.add_member(name)
    # Two of Bob's sessions: a credential belongs to a session, not only to a subject.
    tokens = {name: world.token(name) for name in names} | {"bob again": world.token("bob", expires_in_s=3000)}
    mine = {name: (world.inference(token), world.memory(token)) for name, token in tokens.items()}
    await asyncio.gather(*(memory.SaveRecords(save("cats", f"crew {name}")) for name, (_, memory) in mine.items()))
    world.workspace.llm.clear_log()
    choice = random.Random(7)
    asked = [(number, choice.choice(list(tokens)), choice.random() < 0.5) for number in range(CALLS)]
    turn = asyncio.Semaphore(AT_ONCE)

    async def ask(number: int, name: str, chat: bool) -> None:
        inference, memory = mine[name]
        mark = f"call-{number}-of-{name}"
        async with turn:
            if chat:
                await inference.Complete(question(mark))
            else:
                await memory.SearchRecords(search(mark, f"crew {name}"))

    await asyncio.gather(*(ask(*call) for call in asked))
    seen: dict[str, str | None] = {}
    for call in world.workspace.llm.calls:
        body = str(call.body)
        for number, name, _ in asked:
            mark = f"call-{number}-of-{name}"
            if f"{mark}'" in body:
                seen[mark] = call.bearer
    expected = {f"call-{number}-of-{name}": tokens[name] for number, name, _ in asked}
    assert seen == expected


async def test_one_token_acts_in_the_group_that_was_chosen(world: World) -> None:
    group = await world.add_group("bob")
    await world.add_member("bob")
    token = world.token("bob")
    with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED"):
        await world.inference(token).Complete(question("?"))

    async def sees(chosen: str) -> set[str]:
        stub = ModelServiceStub(world.channel(token, chosen))
        listed = await stub.ListModels(model_pb2.ListModelsRequest(page_size=1000))
        return {model.name for model in listed.models}

    own = model_pb2.Model(
        name="own/model",
        upstream_model="extract",
        provider=model_pb2.PROVIDER_OFFLINE,
        capabilities=model_pb2.Capabilities(chat=True),
    )
    await ModelServiceStub(world.channel(token, group)).CreateModel(model_pb2.CreateModelRequest(model=own))
    answers = await asyncio.gather(*(sees(chosen) for chosen in [group, "sales"] * 20))
    assert all(("own/model" in names) is (place % 2 == 0) for place, names in enumerate(answers))
