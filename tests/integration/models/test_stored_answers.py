"""Answers that are given again: to a repeated request_id, and to equal requests that ask for it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import func, select, update
from sqlalchemy import text as sql

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2, usage_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.common.grpc.json_values import to_struct
from services.common.identity.principal import Principal
from services.models.repositories.stored_answers import StoredAnswerRepository
from services.models.tables import metadata, stored_answers
from services.models.usecases.stored_answers import Reuse, StoredAnswers
from tests.integration.models.support import (
    CHAT,
    OFFLINE,
    REASONER,
    Installation,
    completion,
    read_refusal,
    refusal,
    serve_models,
    text,
)
from tests.support.harness import ALICE, BOB
from tests.support.llm_script import Fault, Reply, ToolCall, Usage
from tests.support.marked_secrets import MarkedSecrets
from tests.support.waiting import until

CAROL = "dev:carol:sales=admin"
HOUR = Duration(seconds=3600)


def whole(
    request_id: str = "", *messages: pb.Message, model: str = CHAT, age: Duration | None = None, **fields: Any
) -> pb.CompleteRequest:
    asked = completion(model, *messages, **fields)
    return pb.CompleteRequest(completion=asked, request_id=request_id, max_cached_age=age)


def streamed(
    request_id: str = "", *messages: pb.Message, model: str = CHAT, age: Duration | None = None, **fields: Any
) -> pb.StreamCompleteRequest:
    asked = completion(model, *messages, **fields)
    return pb.StreamCompleteRequest(completion=asked, request_id=request_id, max_cached_age=age)


async def collect(call: Any) -> list[pb.StreamCompleteResponse]:
    return [piece async for piece in call]


def told(pieces: list[pb.StreamCompleteResponse]) -> pb.CompleteResponse:
    """Return the whole answer that a stream told."""
    response = pb.CompleteResponse()
    for piece in pieces:
        kind = piece.WhichOneof("delta")
        if kind == "text":
            response.text += piece.text
        elif kind == "reasoning":
            response.reasoning += piece.reasoning
        elif kind == "tool_call":
            part = piece.tool_call
            if part.index == len(response.tool_calls):
                response.tool_calls.add(id=part.id, name=part.name)
            response.tool_calls[part.index].arguments_json += part.arguments_json
        elif kind == "usage":
            response.usage.CopyFrom(piece.usage)
    finish = pieces[-1].finish
    response.finish_reason, response.upstream_model, response.stored = (
        finish.reason,
        finish.upstream_model,
        finish.stored,
    )
    return response


def as_stored(response: pb.CompleteResponse) -> pb.CompleteResponse:
    stored = pb.CompleteResponse()
    stored.CopyFrom(response)
    stored.stored = True
    return stored


async def calls_recorded(served: Installation, bearer: str = ALICE) -> int:
    rows = (await served.usage(bearer).QueryUsage(usage_pb2.QueryUsageRequest())).rows
    return sum(row.calls for row in rows)


def database_of(served: Installation) -> Database:
    return served.harness.services["models"]._database  # type: ignore[attr-defined,no-any-return]


async def rows_stored(served: Installation) -> int:
    return int((await database_of(served).fetch(select(func.count().label("n")).select_from(stored_answers)))[0]["n"])


# Repeated requests


async def test_a_repeated_request_id_gets_the_first_answer_and_is_not_billed_again(served: Installation) -> None:
    served.llm.on(Reply(text="Paris", usage=Usage(prompt_tokens=1000, completion_tokens=500)), times=1)
    first = await served.inference().Complete(whole("r1"))
    assert not first.stored
    again = await served.inference().Complete(whole("r1"))
    assert again == as_stored(first)
    assert again.usage.cost == pytest.approx(0.006)
    assert len(served.llm.calls) == 1
    assert await calls_recorded(served) == 1


async def test_streams_and_whole_answers_replay_each_other(served: Installation) -> None:
    tool = pb.ToolDefinition(name="lookup", parameters_schema=to_struct({"type": "object", "properties": {}}))
    served.llm.on(
        Reply(
            chunks=["The answer", " is", " Paris 😀"],
            tool_calls=[ToolCall(name="lookup", arguments={"a": "é"}), ToolCall(name="lookup", arguments={"b": 2})],
            usage=Usage(prompt_tokens=10, completion_tokens=5),
        )
    )
    first = told(await collect(served.inference().StreamComplete(streamed("r1", tools=[tool]))))
    assert (first.text, len(first.tool_calls), first.stored) == ("The answer is Paris 😀", 2, False)
    assert await served.inference().Complete(whole("r1", tools=[tool])) == as_stored(first)
    second = await served.inference().Complete(whole("r2", tools=[tool]))
    pieces = await collect(served.inference().StreamComplete(streamed("r2", tools=[tool])))
    assert told(pieces) == as_stored(second)
    assert [piece.WhichOneof("delta") for piece in pieces[-2:]] == ["usage", "finish"]
    assert len(served.llm.calls) == 2


async def test_reasoning_is_replayed_too(models: Installation) -> None:
    models.llm.on(Reply(text="Paris", reasoning="It is the capital."))
    first = await models.inference().Complete(whole("r1", model=REASONER))
    assert first.reasoning == "It is the capital."
    assert told(await collect(models.inference().StreamComplete(streamed("r1", model=REASONER)))) == as_stored(first)


async def test_another_body_under_the_same_request_id_is_refused(served: Installation) -> None:
    await served.inference().Complete(whole("r1"))
    failure = await refusal(served.inference().Complete(whole("r1", text("Something else"))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await collect(served.inference().StreamComplete(streamed("r1", sampling=pb.Sampling(seed=1))))
    assert read_refusal(refused.value).reason == "REQUEST_ID_REUSED"
    assert len(served.llm.calls) == 1


async def test_groups_and_subjects_do_not_share_request_ids(served: Installation) -> None:
    for number, bearer in enumerate((ALICE, BOB, CAROL)):
        response = await served.inference(bearer).Complete(whole("r1", text(f"Question {number}")))
        assert not response.stored
    assert len(served.llm.calls) == 3


async def test_a_call_without_a_request_id_is_never_stored(served: Installation) -> None:
    for _ in range(2):
        assert not (await served.inference().Complete(whole())).stored
        await collect(served.inference().StreamComplete(streamed()))
    assert len(served.llm.calls) == 4
    assert await rows_stored(served) == 0


async def test_equal_request_ids_at_once_are_one_call_upstream(served: Installation) -> None:
    served.llm.on(Reply(hang=True, text="Paris"), times=1)
    asked = asyncio.gather(*(served.inference().Complete(whole("r1")) for _ in range(15)))
    stream = asyncio.create_task(collect(served.inference().StreamComplete(streamed("r1"))))
    await served.llm.wait_for_calls(1, hanging=True)
    served.llm.release()
    responses = [*await asked, told(await stream)]
    assert {response.text for response in responses} == {"Paris"}
    assert sorted(response.stored for response in responses) == [False] + [True] * 15
    assert len(served.llm.calls) == 1
    assert await calls_recorded(served) == 1


async def test_who_repeats_a_call_that_still_runs_with_another_body_is_refused_at_once(served: Installation) -> None:
    served.llm.on(Reply(hang=True), times=1)
    first = asyncio.gather(served.inference().Complete(whole("r1")))
    await served.llm.wait_for_calls(1, hanging=True)
    failure = await refusal(served.inference().Complete(whole("r1", text("Something else"))))
    assert failure.reason == "REQUEST_ID_REUSED"
    served.llm.release()
    await first


async def test_a_failed_call_stores_nothing_and_its_repetition_tries_again(served: Installation) -> None:
    served.llm.on(Reply(fault=Fault(status=400, message="no such thing")), times=2)
    assert (await refusal(served.inference().Complete(whole("r1")))).reason == "UPSTREAM_REJECTED"
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(served.inference().StreamComplete(streamed("r1")))
    assert await rows_stored(served) == 0
    assert not (await served.inference().Complete(whole("r1"))).stored
    assert len(served.llm.calls) == 3


def noted_arrivals(monkeypatch: pytest.MonkeyPatch) -> list[Reuse]:
    """Return the list of calls that are made or wait for another one, as they come to that."""
    arrived: list[Reuse] = []
    turn = StoredAnswers._turn

    async def noted(self: StoredAnswers, principal: Principal, reuse: Reuse) -> Any:
        arrived.append(reuse)
        return await turn(self, principal, reuse)

    monkeypatch.setattr(StoredAnswers, "_turn", noted)
    return arrived


async def test_those_who_wait_get_the_failure_of_the_call_they_wait_for(
    served: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.llm.on(Reply(hang=True, fault=Fault(status=400, message="no such thing")), times=1)
    arrived = noted_arrivals(monkeypatch)
    asked = asyncio.gather(*(refusal(served.inference().Complete(whole("r1"))) for _ in range(2)))
    await served.llm.wait_for_calls(1, hanging=True)
    await until(lambda: len(arrived) == 2, "the other one waits")
    served.llm.release()
    reasons = [failure.reason for failure in await asked]
    assert reasons == ["UPSTREAM_REJECTED"] * 2


async def test_who_waits_for_a_call_that_is_cancelled_makes_it_itself(
    served: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.llm.on(Reply(hang=True), times=1)
    arrived = noted_arrivals(monkeypatch)
    first = served.inference().Complete(whole("r1"))
    ended = asyncio.create_task(first.code())
    await served.llm.wait_for_calls(1, hanging=True)
    second = asyncio.gather(served.inference().Complete(whole("r1")))
    await until(lambda: len(arrived) == 2, "the second one waits")
    first.cancel()
    assert await ended is grpc.StatusCode.CANCELLED
    await served.llm.wait_for_calls(1, outcome="client_disconnected")
    assert not (await second)[0].stored
    assert len(served.llm.calls) == 2


async def test_a_stream_that_is_left_before_its_end_stores_nothing(served: Installation) -> None:
    served.llm.on(Reply(chunks=["a", "b"], hang_after_chunks=1), times=1)
    call = served.inference().StreamComplete(streamed("r1"))
    assert (await call.read()).text == "a"
    call.cancel()
    await served.llm.wait_for_calls(1, outcome="client_disconnected")
    assert not told(await collect(served.inference().StreamComplete(streamed("r1")))).stored
    assert len(served.llm.calls) == 2


async def test_a_stored_answer_is_given_to_a_group_without_any_budget_left(served: Installation) -> None:
    first = await served.inference().Complete(whole("r1"))
    await served.usage().SetBudget(usage_pb2.SetBudgetRequest(budget=usage_pb2.Budget(monthly_cost_limit=1e-12)))
    assert (await refusal(served.inference().Complete(whole("r2")))).reason == "BUDGET_EXCEEDED"
    assert await served.inference().Complete(whole("r1")) == as_stored(first)


async def test_stored_answers_survive_a_restart(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as installation:
        first = await installation.inference().Complete(whole("r1"))
        cached = await installation.inference().Complete(whole("", text("Cached"), age=HOUR))
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as installation:
        assert await installation.inference().Complete(whole("r1")) == as_stored(first)
        assert await installation.inference().Complete(whole("", text("Cached"), age=HOUR)) == as_stored(cached)
        assert installation.llm.calls == []


async def test_with_another_key_a_stored_answer_is_as_good_as_none(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as installation:
        await installation.inference().Complete(whole("r1"))
    for file in (tmp_path / "keys" / "services").glob("models.*"):
        file.unlink()
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as installation:
        assert not (await installation.inference().Complete(whole("r1", text("Another body")))).stored
        assert len(installation.llm.calls) == 1


async def test_neither_prompt_nor_answer_can_be_read_in_the_database(served: Installation) -> None:
    marks = MarkedSecrets()
    prompt = marks.add("prompt", "prompt-7f3a9c1e5d2b8640")
    reply = marks.add("answer", "answer-1b9d5e7c3a8f2046")
    name = marks.add("request_id", "request-5c2e8a9d7f1b3064")
    served.llm.on(Reply(text=reply))
    await served.inference().Complete(whole(name, text(prompt)))
    await served.inference().Complete(whole("", text(prompt), age=HOUR))
    assert await rows_stored(served) == 2
    assert await calls_recorded(served) == 2
    rows = []
    for table in metadata.tables:
        async with database_of(served).read() as connection:
            for row in await connection.execute(sql(f"SELECT * FROM {table}")):
                rows.append(" ".join(bytes(v).hex() if isinstance(v, bytes | memoryview) else str(v) for v in row))
    assert len(rows) >= 4
    assert marks.found_in("\n".join(rows)) == []


async def test_answers_expire_and_are_removed(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, database_url=database_url, cleaning_seconds=0.05) as installation:
        await installation.inference().Complete(whole("r1"))
        await installation.inference().Complete(whole("r2"))
        past = utc_now() - timedelta(seconds=1)
        first = select(func.min(stored_answers.c.key)).scalar_subquery()
        async with database_of(installation).write() as connection:
            await connection.execute(
                update(stored_answers).where(stored_answers.c.key == first).values(expires_at=past)
            )
        async with asyncio.timeout(60):
            while await rows_stored(installation) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        again = [(await installation.inference().Complete(whole(name))).stored for name in ("r1", "r2")]
        assert sorted(again) == [False, True]


async def test_an_expired_answer_is_not_given_before_it_is_removed(served: Installation) -> None:
    await served.inference().Complete(whole("r1", age=HOUR))
    async with database_of(served).write() as connection:
        past = utc_now() - timedelta(seconds=1)
        await connection.execute(update(stored_answers).values(expires_at=past))
    assert not (await served.inference().Complete(whole("r1", text("Another body")))).stored
    assert not (await served.inference().Complete(whole("r2", age=HOUR))).stored
    assert (await served.inference().Complete(whole("r1", text("Another body")))).stored


async def test_a_group_stores_so_many_answers_and_bytes_and_the_oldest_leave_first(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(
        tmp_path,
        monkeypatch,
        database_url=database_url,
        stored_answers_per_group=3,
        stored_answer_bytes_per_group=4096,
    ) as installation:
        await installation.inference(BOB).Complete(whole("r1"))
        for name in ("r1", "r2", "r3", "r4"):
            await installation.inference().Complete(whole(name))
        assert await rows_stored(installation) == 1 + 3
        assert (await installation.inference(BOB).Complete(whole("r1"))).stored
        assert (await installation.inference().Complete(whole("r2"))).stored
        installation.llm.on(Reply(text="x" * 3500), contains="long", times=1)
        await installation.inference().Complete(whole("r5", text("long")))
        assert await rows_stored(installation) == 1 + 1
        assert (await installation.inference().Complete(whole("r5", text("long")))).stored
        installation.llm.on(Reply(text="x" * 5000), contains="longer")
        await installation.inference().Complete(whole("r6", text("longer")))
        assert not (await installation.inference().Complete(whole("r6", text("longer")))).stored


# Several replicas


@pytest.fixture
async def replicas(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Installation, Installation]]:
    async with (
        serve_models(tmp_path, monkeypatch, database_url=postgres_url) as first,
        serve_models(tmp_path, monkeypatch, database_url=postgres_url) as second,
    ):
        yield first, second


async def test_a_call_that_another_replica_runs_is_waited_for(replicas: tuple[Installation, Installation]) -> None:
    first, second = replicas
    first.llm.on(Reply(hang=True, text="Paris"), times=1)
    running = asyncio.gather(first.inference().Complete(whole("r1")))
    await first.llm.wait_for_calls(1, hanging=True)
    failure = await refusal(second.inference().Complete(whole("r1", text("Something else"))))
    assert failure.reason == "REQUEST_ID_REUSED"
    waiting = asyncio.gather(second.inference().Complete(whole("r1")))
    first.llm.release()
    assert (await waiting)[0] == as_stored((await running)[0])
    assert second.llm.calls == []


async def test_a_call_that_failed_in_another_replica_is_made_here(replicas: tuple[Installation, Installation]) -> None:
    first, second = replicas
    first.llm.on(Reply(hang=True, fault=Fault(status=400)), times=1)
    running = asyncio.gather(refusal(first.inference().Complete(whole("r1"))))
    await first.llm.wait_for_calls(1, hanging=True)
    waiting = asyncio.gather(second.inference().Complete(whole("r1")))
    first.llm.release()
    await running
    assert not (await waiting)[0].stored
    assert len(second.llm.calls) == 1


async def test_the_claim_of_a_replica_that_died_lapses(replicas: tuple[Installation, Installation]) -> None:
    first, second = replicas
    first.llm.on(Reply(hang=True), times=1)
    running = first.inference().Complete(whole("r1"))
    ended = asyncio.gather(running.code())
    await first.llm.wait_for_calls(1, hanging=True)
    async with database_of(second).write() as connection:
        past = utc_now() - timedelta(seconds=1)
        await connection.execute(update(stored_answers).values(expires_at=past, claimed_by="dead"))
    assert not (await second.inference().Complete(whole("r1"))).stored
    running.cancel()
    await ended
    assert (await second.inference().Complete(whole("r1"))).stored


async def test_a_claim_that_could_not_be_released_does_not_hold_up_its_own_process(
    replicas: tuple[Installation, Installation], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("the database does not answer")

    first, _ = replicas
    first.llm.on(Reply(fault=Fault(status=400)), times=1)
    with monkeypatch.context() as patched:
        patched.setattr(StoredAnswerRepository, "release", away)
        await refusal(first.inference().Complete(whole("r1")))
    # Renewed or not, as calls of this process that run renew what it has claimed.
    async with database_of(first).write() as connection:
        await connection.execute(update(stored_answers).values(expires_at=utc_now() + timedelta(hours=1)))
    assert not (await first.inference().Complete(whole("r1"), timeout=30)).stored
    assert (await first.inference().Complete(whole("r1"))).stored


async def test_a_claim_is_released_before_the_next_call_of_its_process_can_have_one(
    replicas: tuple[Installation, Installation], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = replicas
    first.llm.on(Reply(hang=True, fault=Fault(status=400)), times=1)
    failing = asyncio.gather(refusal(first.inference().Complete(whole("r1"))))
    await first.llm.wait_for_calls(1, hanging=True)
    (run,) = first.harness.services["models"]._stored_answers._running.values()  # type: ignore[attr-defined]
    release = StoredAnswerRepository.release
    others_could_go_on: list[bool] = []

    async def noted(*given: Any) -> None:
        others_could_go_on.append(run.ended.done())
        await release(*given)

    monkeypatch.setattr(StoredAnswerRepository, "release", noted)
    first.llm.release()
    await failing
    assert others_could_go_on == [False]
    assert not (await first.inference().Complete(whole("r1"))).stored


# Equal requests


async def test_an_equal_request_gets_a_young_answer_of_its_group_when_it_asks_for_one(served: Installation) -> None:
    first = await served.inference().Complete(whole(age=HOUR))
    assert not first.stored
    assert await served.inference(CAROL).Complete(whole(age=HOUR)) == as_stored(first)
    assert told(await collect(served.inference().StreamComplete(streamed(age=HOUR)))) == as_stored(first)
    assert not (await served.inference().Complete(whole())).stored
    assert not (await served.inference(BOB).Complete(whole(age=HOUR))).stored
    assert len(served.llm.calls) == 3
    assert await calls_recorded(served) == 2


async def test_a_streamed_answer_serves_equal_requests_too(served: Installation) -> None:
    first = told(await collect(served.inference().StreamComplete(streamed(age=HOUR))))
    assert await served.inference().Complete(whole(age=HOUR)) == as_stored(first)


async def test_an_answer_that_is_too_old_is_not_taken_and_replaced(served: Installation) -> None:
    await served.inference().Complete(whole(age=HOUR))
    async with database_of(served).write() as connection:
        await connection.execute(update(stored_answers).values(created_at=utc_now() - timedelta(hours=2)))
    assert (await served.inference().Complete(whole(age=Duration(seconds=3 * 3600)))).stored
    assert not (await served.inference().Complete(whole(age=HOUR))).stored
    assert (await served.inference().Complete(whole(age=HOUR))).stored


@pytest.mark.parametrize(
    "change",
    [{"sampling": pb.Sampling(temperature=0.5)}, {"model": REASONER}, {"response_format": pb.ResponseFormat(name="a")}],
    ids=["sampling", "model", "format"],
)
async def test_any_difference_makes_another_request(models: Installation, change: dict[str, Any]) -> None:
    models.llm.on(Reply(text="{}"))
    await models.inference().Complete(whole(age=HOUR))
    assert not (await models.inference().Complete(whole(age=HOUR, **change))).stored


async def test_a_changed_model_answers_anew(served: Installation) -> None:
    model = model_pb2.Model(
        name="openai/mine",
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="mine",
        capabilities=model_pb2.Capabilities(chat=True),
    )
    await served.models().CreateModel(model_pb2.CreateModelRequest(model=model))
    await served.inference().Complete(whole(model="openai/mine", age=HOUR))
    change = model_pb2.UpdateModelRequest(name="openai/mine", model=model_pb2.Model(upstream_model="newer"))
    change.update_mask.paths.append("upstream_model")
    await served.models().UpdateModel(change)
    assert not (await served.inference().Complete(whole(model="openai/mine", age=HOUR))).stored
    assert [call.model for call in served.llm.calls] == ["mine", "newer"]


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_an_answer_that_was_cut_serves_its_own_repetition_only(models: Installation, finish: str) -> None:
    models.llm.on(Reply(text="half an ans", finish_reason=finish))
    await models.inference().Complete(whole("r1", age=HOUR))
    assert (await models.inference().Complete(whole("r1", age=HOUR))).stored
    assert not (await models.inference().Complete(whole("r2", age=HOUR))).stored


async def test_the_answer_of_a_fallback_serves_its_own_repetition_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat: dict[str, Any] = {"provider": "openai", "capabilities": ["chat"]}
    seed: list[dict[str, Any]] = [
        {**chat, "name": CHAT, "fallbacks": {"on_outage": ["openai/other"]}},
        {**chat, "name": "openai/other"},
    ]
    async with serve_models(tmp_path, monkeypatch, seed=seed) as installation:
        installation.llm.on(Reply(fault=Fault(status=503)), model="chat")
        first = await installation.inference().Complete(whole("r1", age=HOUR))
        assert first.answered_by == "openai/other"
        assert await installation.inference().Complete(whole("r1", age=HOUR)) == as_stored(first)
        pieces = await collect(installation.inference().StreamComplete(streamed("r1", age=HOUR)))
        assert pieces[-1].finish.answered_by == "openai/other"
        installation.llm.clear_rules()
        assert not (await installation.inference().Complete(whole("r2", age=HOUR))).stored


async def test_a_stream_that_broke_its_schema_is_not_stored(models: Installation) -> None:
    schema = to_struct({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
    asked: dict[str, Any] = {"response_format": pb.ResponseFormat(name="place", schema=schema)}
    models.llm.on(Reply(text='{"town": 1}'), times=1)
    models.llm.on(Reply(text='{"city": "Paris"}'))
    pieces = await collect(models.inference().StreamComplete(streamed("r1", age=HOUR, **asked)))
    assert pieces[-1].finish.schema_violations
    again = await models.inference().Complete(whole("r1", age=HOUR, **asked))
    assert (again.text, again.stored) == ('{"city": "Paris"}', False)


async def test_a_cached_answer_is_kept_for_its_request_id_as_well(served: Installation) -> None:
    first = await served.inference().Complete(whole(age=HOUR))
    assert (await served.inference().Complete(whole("r1", age=HOUR))).stored
    assert await served.inference().Complete(whole("r1")) == as_stored(first)
    assert len(served.llm.calls) == 1


@pytest.mark.parametrize("age", [Duration(), Duration(seconds=-1), Duration(seconds=2592001)])
async def test_an_age_has_to_be_one(models: Installation, age: Duration) -> None:
    failure = await refusal(models.inference().Complete(whole(age=age)))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["max_cached_age"])


async def test_a_disabled_model_serves_no_cached_answer(served: Installation) -> None:
    await served.inference().Complete(whole(age=HOUR))
    await served.models().SetModelEnabled(model_pb2.SetModelEnabledRequest(name=CHAT, enabled=False))
    assert (await refusal(served.inference().Complete(whole(age=HOUR)))).reason == "MODEL_DISABLED"


async def test_offline_answers_are_stored_like_others(models: Installation) -> None:
    question = text("Summarise.", material="The river rises in the north. Barges carry grain. Floods are rare.")
    first = await models.inference().Complete(whole("r1", question, model=OFFLINE))
    assert await models.inference().Complete(whole("r1", question, model=OFFLINE)) == as_stored(first)
