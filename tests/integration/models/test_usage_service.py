"""What calls used, and the limits on it, as callers see them."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select

from coxswain.models.v1 import inference_pb2 as inference_pb
from coxswain.models.v1 import model_pb2
from coxswain.models.v1 import usage_pb2 as pb
from services.common.db.database import Database
from services.models.tables import usage_records
from tests.integration.models.support import (
    CHAT,
    EMBED,
    OFFLINE,
    Installation,
    ask,
    ask_stream,
    refusal,
    serve_models,
    text,
)
from tests.support.harness import ALICE, BOB
from tests.support.llm_script import Fault, Reply, Usage

OPERATOR = "dev:olga:sales=operator"
PRICED = Reply(text="Answer", usage=Usage(prompt_tokens=1_000_000, completion_tokens=500_000))
"""Six dollars at the prices of the seed."""


async def rows(installation: Installation, bearer: str = ALICE, **fields: object) -> dict[str, pb.UsageRow]:
    response = await installation.usage(bearer).QueryUsage(pb.QueryUsageRequest(**fields))  # type: ignore[arg-type]
    return {row.model or row.execution_id: row for row in response.rows}


async def limit(installation: Installation, bearer: str = ALICE, **fields: float) -> None:
    await installation.usage(bearer).SetBudget(pb.SetBudgetRequest(budget=pb.Budget(**fields)))  # type: ignore[arg-type]


async def test_every_call_is_counted_for_its_group_and_model_at_once(served: Installation) -> None:
    served.llm.on(PRICED, route="chat")
    await served.inference().Complete(ask(CHAT))
    async for _ in served.inference().StreamComplete(ask_stream(CHAT)):
        pass
    await served.inference().Embed(inference_pb.EmbedRequest(model=EMBED, texts=["one two three"]))
    await served.inference().Complete(ask(OFFLINE, text("Sum up.", material="The text is here for everybody.")))
    await served.inference(BOB).Complete(ask(CHAT))
    mine = await rows(served)
    assert set(mine) == {CHAT, EMBED, OFFLINE}
    assert mine[CHAT] == pb.UsageRow(model=CHAT, calls=2, input_tokens=2_000_000, output_tokens=1_000_000, cost=12.0)
    assert mine[EMBED].calls == 1
    assert mine[EMBED].input_tokens == 3
    assert set(await rows(served, BOB)) == {CHAT}
    budget = await served.usage().GetBudget(pb.GetBudgetRequest())
    tokens = 3_000_003 + mine[OFFLINE].input_tokens + mine[OFFLINE].output_tokens
    assert budget == pb.GetBudgetResponse(
        budget=pb.Budget(),
        effective=pb.Budget(),
        monthly_cost=12.0,
        daily_cost=12.0,
        tokens_today=tokens,
        tokens_this_month=tokens,
    )


async def test_a_failed_call_is_not_counted_and_a_stream_given_up_is(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=400)), contains="fail")
    models.llm.on(Reply(text="many words come here", hang_after_chunks=2))
    await refusal(models.inference().Complete(ask(CHAT, text("fail"))))
    assert await rows(models) == {}
    stream = models.inference().StreamComplete(ask_stream(CHAT))
    await stream.read()
    stream.cancel()
    await models.llm.wait_for_calls(1, client_disconnected=True)
    mine: dict[str, pb.UsageRow] = {}
    async with asyncio.timeout(60):
        while not mine:
            mine = await rows(models)
    assert mine[CHAT].calls == 1
    assert mine[CHAT].output_tokens >= 1


async def test_a_span_of_time_counts_only_the_calls_in_it(models: Installation) -> None:
    await models.inference().Complete(ask(CHAT))
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    for start, end, found in [
        (now - hour, now + hour, 1),
        (now + hour, None, 0),
        (None, now - hour, 0),
        (None, None, 1),
    ]:
        request = pb.QueryUsageRequest()
        if start:
            request.start_time.FromDatetime(start)
        if end:
            request.end_time.FromDatetime(end)
        assert len((await models.usage().QueryUsage(request)).rows) == found
    request = pb.QueryUsageRequest()
    request.start_time.FromDatetime(now)
    request.end_time.FromDatetime(now - hour)
    assert (await refusal(models.usage().QueryUsage(request))).fields == ["end_time"]


async def test_usage_is_summed_by_execution_of_the_principal(models: Installation) -> None:
    from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2, principal_pb2
    from coxswain.models.v1 import inference_service_pb2_grpc
    from services.common.grpc.call import acting_as

    peers = models.harness.peers("orchestrator")
    auth = auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth"))
    exchanged = await auth.ExchangeToken(principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {ALICE}"))
    with acting_as(exchanged.principal_token):
        granted = await auth.CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
    issued = await auth.IssueExecutionPrincipal(
        delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id="run-1")
    )
    inference = inference_service_pb2_grpc.InferenceServiceStub(peers.channel("models"))
    with acting_as(issued.principal_token):
        await inference.Complete(ask(CHAT))
    await models.inference().Complete(ask(CHAT))
    by_execution = await rows(models, group_by=[pb.USAGE_GROUPING_EXECUTION])
    assert {key: row.calls for key, row in by_execution.items()} == {"": 1, "run-1": 1}
    assert (await rows(models, execution_id="run-1"))[CHAT].calls == 1


async def test_the_rate_a_group_allows_itself_is_kept_and_touches_no_other_group(served: Installation) -> None:
    await limit(served, calls_per_minute=2)
    outcomes = []
    for _ in range(5):
        try:
            await served.inference().Complete(ask(CHAT))
            outcomes.append("")
        except grpc.aio.AioRpcError as error:
            outcomes.append(error.code().name)
    # A minute may end in between: then a third or fourth call is admitted.
    assert 2 <= outcomes.count("") <= 4
    assert outcomes.count("RESOURCE_EXHAUSTED") == 5 - outcomes.count("")
    await served.inference(BOB).Complete(ask(CHAT))
    await served.usage().DeleteBudget(pb.DeleteBudgetRequest(scope=pb.BudgetScope()))
    await served.inference().Complete(ask(CHAT))


async def test_a_refusal_for_the_rate_says_which_budget_and_when_to_come_back(models: Installation) -> None:
    await limit(models, calls_per_minute=1)
    failures = []
    for number in range(3):
        call = models.inference().Embed(inference_pb.EmbedRequest(texts=[f"text {number}"]))
        try:
            await call
        except grpc.aio.AioRpcError:
            failures.append(await refusal(call))
    assert failures
    assert (failures[0].reason, failures[0].metadata) == ("BUDGET_EXCEEDED", {"budget": "calls_per_minute"})
    assert failures[0].retry_after is not None
    assert 0 < failures[0].retry_after <= 60


async def test_the_money_a_group_allows_itself_ends_the_calls_that_follow(served: Installation) -> None:
    served.llm.on(PRICED, route="chat")
    await limit(served, monthly_cost_limit=10.0)
    await served.inference().Complete(ask(CHAT))
    await served.inference().Complete(ask(CHAT))
    failure = await refusal(served.inference().Complete(ask(CHAT)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
    assert failure.metadata == {"budget": "monthly_cost_limit"}
    assert len(served.llm.calls) == 2
    await served.inference(BOB).Complete(ask(CHAT))
    await limit(served, monthly_cost_limit=100.0)
    await served.inference().Complete(ask(CHAT))


async def test_budgets_are_admins_affair_and_sane(models: Installation) -> None:
    request = pb.SetBudgetRequest(budget=pb.Budget(calls_per_minute=1))
    assert (await refusal(models.usage(OPERATOR).SetBudget(request))).reason == "ROLE_REQUIRED"
    for value in (-1.0, math.inf, math.nan):
        failure = await refusal(
            models.usage().SetBudget(pb.SetBudgetRequest(budget=pb.Budget(monthly_cost_limit=value)))
        )
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.fields == ["budget.monthly_cost_limit"]
    assert (await models.usage(OPERATOR).GetBudget(pb.GetBudgetRequest())).budget == pb.Budget()


async def test_usage_outlives_the_process(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as installation:
        await asyncio.gather(*(installation.inference().Complete(ask(CHAT)) for _ in range(50)))
    url = f"sqlite:///{tmp_path / 'models.db'}" if database_url.startswith("sqlite") else database_url
    database = Database(url, "models", null_pool=True)
    try:
        async with database.read() as connection:
            stored = (await connection.execute(select(usage_records.c.id, usage_records.c.group_id))).all()
    finally:
        await database.close()
    assert len(stored) == 50
    assert {row.group_id for row in stored} == {"sales"}


async def test_usage_is_summed_by_several_things_at_once_in_pages(served: Installation) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=20, reasoning_tokens=5, cached_tokens=30)
    served.llm.on(Reply(text="Answer", usage=usage), route="chat")
    carol = "dev:carol:sales=operator"
    for bearer, labels in [
        (ALICE, {"crew": "brief", "project": "atlas"}),
        (ALICE, {"crew": "brief", "project": "borealis"}),
        (carol, {"crew": "poem", "project": "atlas"}),
        (carol, {}),
    ]:
        await served.inference(bearer).Complete(ask(CHAT, labels=labels))
    embed = inference_pb.EmbedRequest(model=EMBED, texts=["one two three"], labels={"crew": "brief"})
    await served.inference().Embed(embed)
    today = f"{datetime.now(UTC):%Y-%m-%d}"

    async def query(*groupings: str, **fields: object) -> list[pb.UsageRow]:
        rows: list[pb.UsageRow] = []
        token = ""
        while True:
            response = await served.usage().QueryUsage(
                pb.QueryUsageRequest(
                    group_by=[pb.UsageGrouping.Value(f"USAGE_GROUPING_{name}") for name in groupings],
                    page_size=2,
                    page_token=token,
                    **fields,  # type: ignore[arg-type]
                )
            )
            assert len(response.rows) <= 2
            rows += response.rows
            token = response.next_page_token
            if not token:
                return rows

    by_crew = await query("CREW", "MODEL")
    assert [(row.crew, row.model, row.calls) for row in by_crew] == [
        ("", CHAT, 1),
        ("brief", CHAT, 2),
        ("brief", EMBED, 1),
        ("poem", CHAT, 1),
    ]
    row = by_crew[1]
    assert (row.input_tokens, row.output_tokens) == (200, 40)
    assert (row.reasoning_tokens, row.cached_input_tokens, row.estimated_calls) == (10, 60, 0)
    assert not row.subject
    by_all = await query("DAY", "SUBJECT", "LABEL", label_key="project")
    assert {row.day for row in by_all} <= {today, f"{datetime.now(UTC):%Y-%m-%d}"}
    assert [(row.subject, row.label_value, row.calls) for row in by_all if row.day == today] == [
        ("dev|alice", "", 1),
        ("dev|alice", "atlas", 1),
        ("dev|alice", "borealis", 1),
        ("dev|carol", "", 1),
        ("dev|carol", "atlas", 1),
    ]
    assert [row.calls for row in await query("LABEL", label_key="none")] == [5]
    assert [row.calls for row in await query(crew="brief", model=CHAT)] == [2]
    assert [row.calls for row in await query(labels={"project": "atlas"}, subject="dev|carol")] == [1]
    assert not await query(labels={"project": "atlas' OR 1=1"})
    assert len(await query("EXECUTION")) == 1


async def test_calls_are_counted_by_model_and_outcome_without_the_names_of_groups(models: Installation) -> None:
    def sample(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"coxswain_models_{name}_total", labels) or 0.0

    await models.models().CreateModel(
        model_pb2.CreateModelRequest(
            model=model_pb2.Model(
                name="team/own",
                provider=model_pb2.PROVIDER_OPENAI,
                capabilities=model_pb2.Capabilities(chat=True),
            )
        )
    )
    models.llm.on(Reply(fault=Fault(status=400)), contains="fail")
    models.llm.on(PRICED, route="chat")
    failed = await refusal(models.inference().Complete(ask(CHAT, text("fail"))))
    counted = [
        ("calls", {"model": CHAT, "outcome": "OK"}, 1),
        ("calls", {"model": CHAT, "outcome": failed.code.name}, 1),
        ("calls", {"model": "own", "outcome": "OK"}, 1),
        ("tokens", {"model": CHAT, "kind": "input"}, 1_000_000),
        ("tokens", {"model": CHAT, "kind": "output"}, 500_000),
        ("cost_dollars", {"model": CHAT}, 6.0),
    ]
    before = [sample(name, **labels) for name, labels, _ in counted]
    await models.inference().Complete(ask(CHAT))
    await refusal(models.inference().Complete(ask(CHAT, text("fail"))))
    await models.inference().Complete(ask("team/own"))
    grown = [sample(name, **labels) - start for (name, labels, _), start in zip(counted, before, strict=True)]
    assert grown == [more for _, _, more in counted]
    names = {label for metric in REGISTRY.collect() for s in metric.samples for label in s.labels.values()}
    assert "team/own" not in names


async def test_a_query_that_makes_no_sense_is_refused_by_its_field(models: Installation) -> None:
    for fields, field in [
        ({"group_by": [pb.USAGE_GROUPING_LABEL]}, "label_key"),
        ({"group_by": [pb.USAGE_GROUPING_UNSPECIFIED]}, "group_by[0]"),
        ({"group_by": [pb.USAGE_GROUPING_DAY] * 2}, "group_by"),
        ({"page_token": "x"}, "page_token"),
    ]:
        request = pb.QueryUsageRequest(**fields)  # type: ignore[arg-type]
        assert (await refusal(models.usage().QueryUsage(request))).fields == [field]
    for labels in ({"Upper": "x"}, {"k" * 33: "x"}, {"key": "x" * 257}, {f"k{n}": "x" for n in range(9)}):
        failure = await refusal(models.inference().Complete(ask(CHAT, labels=labels)))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.fields[0].startswith("completion.labels")


async def test_tokens_of_caches_have_prices_of_their_own(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced = {
        "name": CHAT,
        "provider": "openai",
        "capabilities": ["chat"],
        "input_cost_per_million_tokens": 10.0,
        "output_cost_per_million_tokens": 0.0,
        "cached_input_cost_per_million_tokens": 1.0,
    }
    async with serve_models(tmp_path, monkeypatch, database_url=database_url, seed=[priced]) as models:
        models.llm.on(Reply(usage=Usage(prompt_tokens=1_000_000, completion_tokens=1, cached_tokens=900_000)))
        answer = await models.inference().Complete(ask(CHAT))
        assert answer.usage.cost == pytest.approx(1.90)
        stored = (await rows(models))[CHAT]
        assert stored.cost == pytest.approx(1.90)
        assert stored.cached_input_tokens == 900_000
        assert (await models.usage().GetBudget(pb.GetBudgetRequest())).monthly_cost == pytest.approx(1.90)
