"""Limits by group, model and subject: what they refuse, what they tell, and who may set them."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2, model_pb2
from coxswain.models.v1 import usage_pb2 as pb
from tests.integration.models.support import (
    CHAT,
    EMBED,
    OFFLINE,
    REASONER,
    Installation,
    Refusal,
    ask,
    ask_stream,
    read_refusal,
    refusal,
    serve_models,
    text,
)
from tests.support.group_limits import limit as group_limit
from tests.support.group_limits import lower
from tests.support.harness import ALICE, BOB
from tests.support.llm_script import Reply, Usage

ROOT = "dev:root:ops=admin,platform_admin"
CAROL = "dev:carol:sales=operator"
PRICED = Reply(text="Answer", usage=Usage(prompt_tokens=1_000_000, completion_tokens=500_000))
"""Six dollars at the prices of the seed."""
SMALL = Reply(text="Answer", usage=Usage(prompt_tokens=60, completion_tokens=40))
"""A hundred tokens."""


async def limit(models: Installation, scope: pb.BudgetScope | None = None, **limits: Any) -> None:
    await models.usage().SetBudget(pb.SetBudgetRequest(budget=pb.Budget(**limits), scope=scope))


async def cap(models: Installation, group: str, scope: pb.BudgetScope | None = None, **limits: Any) -> None:
    request = pb.SetBudgetCeilingRequest(group_id=group, ceiling=pb.Budget(**limits), scope=scope)
    await models.usage(ROOT).SetBudgetCeiling(request)


async def complete(models: Installation, bearer: str = ALICE, model: str = CHAT, **fields: Any) -> Any:
    return await models.inference(bearer).Complete(ask(model, **fields))


async def refused(models: Installation, bearer: str = ALICE, model: str = CHAT) -> Refusal:
    failure = await refusal(complete(models, bearer, model))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
    return failure


@pytest.mark.parametrize(
    ("limits", "waits"),
    [
        ({"monthly_cost_limit": 5.0}, False),
        ({"daily_cost_limit": 5.0}, True),
        ({"tokens_per_day": 1_000_000}, True),
        ({"tokens_per_month": 1_000_000}, False),
    ],
)
async def test_a_sum_that_is_used_up_ends_the_calls_that_follow(
    served: Installation, limits: dict[str, Any], waits: bool
) -> None:
    served.llm.on(PRICED, route="chat")
    await limit(served, **limits)
    await complete(served)
    failure = await refused(served)
    assert failure.metadata == {"budget": next(iter(limits))}
    assert (failure.retry_after is not None) is waits
    await complete(served, BOB)
    assert len(served.llm.calls) == 2


@pytest.mark.parametrize(
    ("limits", "words"), [({"tokens_per_minute": 150}, "150 tokens"), ({"cost_per_minute": 0.0006}, "$0.0006")]
)
async def test_what_a_minute_allows_is_given_anew_each_minute(
    served: Installation, limits: dict[str, Any], words: str
) -> None:
    served.llm.on(SMALL, route="chat")
    scope = pb.BudgetScope(model=CHAT, subject="dev|alice")
    await limit(served, scope, **limits)
    failures = []
    for _ in range(6):
        try:
            await complete(served)
        except grpc.aio.AioRpcError as error:
            failures.append(read_refusal(error))
    # A minute may end in between: then there are two more.
    assert 2 <= len(failures) <= 4
    (name,) = limits
    assert failures[0].metadata == {"budget": name, "budget_model": CHAT, "budget_subject": "dev|alice"}
    assert f"of their {words} for this minute" in failures[0].message
    assert failures[0].retry_after is not None
    assert 0 < failures[0].retry_after <= 60
    await complete(served, CAROL)
    await complete(served, BOB)
    # A limit on cost asks for prices.
    await limit(served, pb.BudgetScope(model=REASONER), **limits)
    if "cost_per_minute" in limits:
        assert (await refusal(complete(served, model=REASONER))).metadata["budget"] == name
    else:
        await complete(served, model=REASONER)


async def test_limits_of_a_model_and_of_a_subject_touch_no_other_calls(served: Installation) -> None:
    served.llm.on(PRICED, route="chat")
    served.llm.on(Reply(vectors=[[1.0] * 64]), route="embeddings")
    await limit(served, pb.BudgetScope(model=CHAT, subject="dev|carol"), tokens_per_day=1)
    await limit(served, pb.BudgetScope(subject="dev|alice"), monthly_cost_limit=1.0)
    await complete(served, CAROL)
    failure = await refused(served, CAROL)
    assert failure.metadata == {"budget": "tokens_per_day", "budget_model": CHAT, "budget_subject": "dev|carol"}
    assert "dev|carol" in failure.message
    assert CHAT in failure.message
    await complete(served, CAROL, REASONER)
    await complete(served)
    assert (await refused(served)).metadata == {"budget": "monthly_cost_limit", "budget_subject": "dev|alice"}
    await limit(served, pb.BudgetScope(model=REASONER), calls_per_minute=1)
    outcomes = await asyncio.gather(*(complete(served, CAROL, REASONER) for _ in range(4)), return_exceptions=True)
    assert 1 <= sum(isinstance(outcome, inference_pb2.CompleteResponse) for outcome in outcomes) <= 2
    await complete(served, BOB)


async def test_calls_at_once_do_not_all_pass_a_limit_that_is_nearly_used_up(served: Installation) -> None:
    served.llm.on(PRICED, route="chat", times=1)
    served.llm.on(Reply(hang=True), route="chat")
    # Six dollars are spent, and each call is expected to cost 0.008 for its answer: two of them find some left.
    await limit(served, monthly_cost_limit=6.01)
    await complete(served)
    waiting = [asyncio.ensure_future(complete(served)) for _ in range(20)]
    failures = []
    for call in asyncio.as_completed(waiting):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        failures.append(read_refusal(failed.value))
        if len(failures) == 18:
            break
    assert {failure.metadata["budget"] for failure in failures} == {"monthly_cost_limit"}
    # What is left may come back.
    assert all(failure.retry_after for failure in failures)
    # The two that were admitted may still be on their way.
    assert len(await served.llm.wait_for_calls(3)) == 3
    for call in waiting:
        call.cancel()
    await served.llm.wait_for_calls(2, client_disconnected=True)
    await asyncio.gather(*waiting, return_exceptions=True)
    served.llm.clear_rules()
    async with asyncio.timeout(60):
        while True:
            try:
                await complete(served)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
                continue
            break


async def test_a_call_sets_aside_the_answer_it_asks_for(models: Installation) -> None:
    models.llm.on(Reply(hang=True), route="chat")
    await limit(models, tokens_per_day=5000)
    big = asyncio.ensure_future(complete(models, sampling=inference_pb2.Sampling(max_output_tokens=6000)))
    await models.llm.wait_for_calls(1)
    assert (await refused(models)).retry_after == 1.0
    big.cancel()
    await models.llm.wait_for_calls(1, client_disconnected=True)


async def test_a_stream_gives_back_what_it_had_set_aside(models: Installation) -> None:
    models.llm.on(SMALL, route="chat")
    await limit(models, tokens_per_day=1000)
    for _ in range(9):
        async for _part in models.inference().StreamComplete(ask_stream(CHAT)):
            pass
    state = await models.usage().GetBudget(pb.GetBudgetRequest())
    assert state.tokens_today == 900


async def test_a_price_that_nobody_knows_is_refused_under_a_cost_limit(served: Installation) -> None:
    await complete(served, model=REASONER)
    await limit(served, monthly_cost_limit=0.000001)
    failure = await refusal(complete(served, model=REASONER))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_UNKNOWN")
    assert failure.metadata == {
        "model": REASONER,
        "field": "input_cost_per_million_tokens",
        "budget": "monthly_cost_limit",
    }
    embedding = served.inference().Embed(inference_pb2.EmbedRequest(model=EMBED, texts=["one"]))
    assert (await refusal(embedding)).reason == "PRICE_UNKNOWN"
    await served.inference().Complete(ask(OFFLINE, text("Sum up.", material="The text is here for everybody.")))
    await served.models().CreateModel(
        model_pb2.CreateModelRequest(
            model=model_pb2.Model(
                name="team/own", provider=model_pb2.PROVIDER_OPENAI, capabilities=model_pb2.Capabilities(chat=True)
            )
        )
    )
    failure = await refusal(complete(served, model="team/own"))
    assert "UpdateModel" in failure.message
    free = model_pb2.Model(input_cost_per_million_tokens=0, output_cost_per_million_tokens=0)
    change = model_pb2.UpdateModelRequest(name="team/own", model=free)
    change.update_mask.paths[:] = ["input_cost_per_million_tokens", "output_cost_per_million_tokens"]
    await served.models().UpdateModel(change)
    await complete(served, model="team/own")


async def test_a_ceiling_counts_whatever_the_group_sets(served: Installation) -> None:
    served.llm.on(PRICED, route="chat")
    await limit(served, monthly_cost_limit=100.0, tokens_per_day=50_000_000)
    await cap(served, "sales", monthly_cost_limit=5.0, calls_per_minute=1000, cost_per_minute=50.0)
    above = await refusal(limit(served, cost_per_minute=50.5))
    assert above.fields == ["budget.cost_per_minute"]
    above = await refusal(limit(served, monthly_cost_limit=5.01))
    assert (above.code, above.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["budget.monthly_cost_limit"])
    assert "5, the operator's ceiling" in above.message
    await complete(served)
    failure = await refused(served)
    assert failure.metadata == {"budget": "monthly_cost_limit", "set_by": "operator"}
    assert "SetBudgetCeiling" in failure.message
    state = await served.usage().GetBudget(pb.GetBudgetRequest())
    assert state.budget == pb.Budget(monthly_cost_limit=100.0, tokens_per_day=50_000_000)
    assert state.ceiling == pb.Budget(monthly_cost_limit=5.0, calls_per_minute=1000, cost_per_minute=50.0)
    assert state.effective == pb.Budget(
        monthly_cost_limit=5.0, calls_per_minute=1000, tokens_per_day=50_000_000, cost_per_minute=50.0
    )
    await served.usage().DeleteBudget(pb.DeleteBudgetRequest(scope=pb.BudgetScope()))
    await refused(served)
    await complete(served, BOB)
    await cap(served, "sales")
    await complete(served)
    assert not (await served.usage().GetBudget(pb.GetBudgetRequest())).HasField("ceiling")


async def test_only_the_operator_sets_ceilings_and_only_admins_limits(models: Installation) -> None:
    request = pb.SetBudgetCeilingRequest(group_id="sales", ceiling=pb.Budget(calls_per_minute=1))
    assert (await refusal(models.usage().SetBudgetCeiling(request))).reason == "ROLE_REQUIRED"
    assert (
        await refusal(models.usage(CAROL).DeleteBudget(pb.DeleteBudgetRequest(scope=pb.BudgetScope())))
    ).reason == "ROLE_REQUIRED"
    for name, value in [
        ("tokens_per_day", 2**63 - 1),
        ("daily_cost_limit", float("inf")),
        ("alert_share", 1.5),
        ("cost_per_minute", float("inf")),
        ("cost_per_minute", float("nan")),
        ("cost_per_minute", -0.01),
    ]:
        faulty: dict[str, Any] = {"calls_per_minute": 1, name: value}
        failure = await refusal(models.usage().SetBudget(pb.SetBudgetRequest(budget=pb.Budget(**faulty))))
        assert failure.fields == [f"budget.{name}"]
    scope = pb.BudgetScope(subject="alice")
    failure = await refusal(
        models.usage().SetBudget(pb.SetBudgetRequest(budget=pb.Budget(calls_per_minute=1), scope=scope))
    )
    assert failure.fields == ["scope.subject"]
    for nothing in (pb.Budget(), pb.Budget(alert_share=0.8)):
        failure = await refusal(models.usage().SetBudget(pb.SetBudgetRequest(budget=nothing)))
        assert (failure.fields, "DeleteBudget" in failure.message) == (["budget"], True)
    assert (await refusal(models.usage().DeleteBudget(pb.DeleteBudgetRequest()))).fields == ["scope"]


async def test_all_limits_are_listed_in_pages_and_can_be_removed(served: Installation) -> None:
    scopes = [pb.BudgetScope(), pb.BudgetScope(subject="dev|z"), *(pb.BudgetScope(model=f"m{n}") for n in range(5))]
    for scope in scopes:
        await limit(served, scope, calls_per_minute=7)
    await cap(served, "sales", pb.BudgetScope(model="m9"), tokens_per_day=9)
    await cap(served, "other", tokens_per_day=9)
    listed: list[pb.ScopedBudget] = []
    token = ""
    while True:
        page = await served.usage(CAROL).ListBudgets(pb.ListBudgetsRequest(page_size=3, page_token=token))
        assert len(page.budgets) <= 3
        listed += page.budgets
        token = page.next_page_token
        if not token:
            break
    assert [entry.scope for entry in listed] == [*scopes, pb.BudgetScope(model="m9")]
    assert all(entry.budget == pb.Budget(calls_per_minute=7) and not entry.HasField("ceiling") for entry in listed[:-1])
    assert listed[-1].ceiling == pb.Budget(tokens_per_day=9)
    assert not listed[-1].HasField("budget")
    for scope in scopes:
        await served.usage().DeleteBudget(pb.DeleteBudgetRequest(scope=scope))
    left = await served.usage().ListBudgets(pb.ListBudgetsRequest())
    assert [entry.scope for entry in left.budgets] == [pb.BudgetScope(model="m9")]


async def alerts(models: Installation, count: int) -> list[pb.BudgetAlert]:
    """Return the group's alerts, once there are so many."""
    async with asyncio.timeout(60):
        while True:
            found = list((await models.usage(CAROL).ListBudgetAlerts(pb.ListBudgetAlertsRequest())).alerts)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_an_alert_is_stored_once_when_a_share_is_used(served: Installation) -> None:
    served.llm.on(PRICED, route="chat")
    await limit(served, monthly_cost_limit=20.0, alert_share=0.5)
    await cap(served, "sales", pb.BudgetScope(model=CHAT), tokens_per_day=4_000_000, alert_share=0.8)
    await complete(served)
    assert not (await served.usage().ListBudgetAlerts(pb.ListBudgetAlertsRequest())).alerts
    await complete(served)
    (first,) = await alerts(served, 1)
    assert (first.limit, first.allowed, first.used, first.alert_share) == ("monthly_cost_limit", 20.0, 12.0, 0.5)
    assert (first.scope, first.ceiling, len(first.period)) == (pb.BudgetScope(), False, 7)
    await complete(served)
    second, same = await alerts(served, 2)
    assert same == first
    assert (second.limit, second.ceiling, second.scope) == ("tokens_per_day", True, pb.BudgetScope(model=CHAT))
    assert len(await alerts(served, 2)) == 2
    assert not (await served.usage(BOB).ListBudgetAlerts(pb.ListBudgetAlertsRequest())).alerts
    page = await served.usage().ListBudgetAlerts(pb.ListBudgetAlertsRequest(page_size=1))
    rest = await served.usage().ListBudgetAlerts(
        pb.ListBudgetAlertsRequest(page_size=1, page_token=page.next_page_token)
    )
    assert [*page.alerts, *rest.alerts] == [second, first]


@pytest.mark.parametrize("is_ceiling", [False, True], ids=["removed", "only the share of a ceiling is left"])
async def test_limits_that_were_removed_tell_nothing_any_more(served: Installation, is_ceiling: bool) -> None:
    served.llm.on(PRICED, route="chat")
    if is_ceiling:
        await cap(served, "sales", monthly_cost_limit=20.0, alert_share=0.5)
    else:
        await limit(served, monthly_cost_limit=20.0, alert_share=0.5)
    await complete(served)
    if is_ceiling:
        await cap(served, "sales", alert_share=0.5)
    else:
        await served.usage().DeleteBudget(pb.DeleteBudgetRequest(scope=pb.BudgetScope()))
    await complete(served)
    await limit(served, pb.BudgetScope(model=CHAT), daily_cost_limit=100.0, alert_share=0.1)
    await complete(served)
    (told,) = await alerts(served, 1)
    assert told.limit == "daily_cost_limit"


async def test_what_was_used_before_a_start_counts_after_it(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as models:
        models.llm.on(PRICED, route="chat")
        await complete(models)
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as models:
        await limit(models, pb.BudgetScope(subject="dev|alice"), daily_cost_limit=5.0)
        await refused(models)
        await complete(models, CAROL)


async def test_replicas_see_what_the_others_have_used(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve_models(tmp_path, monkeypatch, database_url=postgres_url, budget_refresh_seconds=0.05) as one,
        serve_models(tmp_path, monkeypatch, database_url=postgres_url, budget_refresh_seconds=0.05) as two,
    ):
        one.llm.on(PRICED, route="chat")
        two.llm.on(SMALL, route="chat")
        await limit(one, monthly_cost_limit=10.0)
        await complete(two)
        await complete(one)
        await complete(one)
        failure = None
        async with asyncio.timeout(60):
            while failure is None:
                try:
                    await complete(two)
                except grpc.aio.AioRpcError as error:
                    failure = read_refusal(error)
        assert failure.metadata == {"budget": "monthly_cost_limit"}


async def test_replicas_tell_once_what_they_have_used_together(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve_models(tmp_path, monkeypatch, database_url=postgres_url, budget_refresh_seconds=0.05) as one,
        serve_models(tmp_path, monkeypatch, database_url=postgres_url, budget_refresh_seconds=0.05) as two,
    ):
        await limit(one, monthly_cost_limit=20.0, alert_share=0.5)
        for models in (one, two):
            models.llm.on(PRICED, route="chat")
            await complete(models)
        # No later call has to notice it.
        (alert,) = await alerts(one, 1)
        assert (alert.limit, alert.used) == ("monthly_cost_limit", 12.0)
        await complete(two)
        assert await alerts(two, 1) == [alert]


async def test_each_replica_passes_a_limit_by_no_more_than_what_it_has_not_read_of_the_others(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        # Nothing is read again by itself: the worst that can be.
        serve_models(tmp_path, monkeypatch, database_url=postgres_url, budget_refresh_seconds=3600) as one,
        serve_models(
            tmp_path, monkeypatch, database_url=postgres_url, budget_refresh_seconds=3600, upstream=one.llm
        ) as two,
    ):
        one.llm.on(SMALL, route="chat")
        await limit(one, tokens_per_month=1000)
        await complete(one)
        await complete(two)
        for replica in (one, two):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while True:
                    await complete(replica)
            assert read_refusal(caught.value).metadata == {"budget": "tokens_per_month"}
        made = len(one.llm.calls)
        assert 10 < made <= 20
        for replica in (one, two):
            await _services(replica)._budgets.refresh()
            failure = await refused(replica)
            assert "1,000 tokens" in failure.message
        # Either tells how far the limit has been passed.
        async with asyncio.timeout(60):
            for replica in (one, two):
                while True:
                    state = await replica.usage().GetBudget(pb.GetBudgetRequest())
                    if state.tokens_this_month == made * 100:
                        break
        assert len(one.llm.calls) == made


async def test_replicas_count_the_calls_of_a_minute_together(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve_models(tmp_path, monkeypatch, database_url=postgres_url) as one,
        serve_models(tmp_path, monkeypatch, database_url=postgres_url, upstream=one.llm) as two,
    ):
        await limit(one, calls_per_minute=5)
        calls = [complete(replica) for replica in (one, two) for _ in range(15)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        answered = sum(isinstance(outcome, inference_pb2.CompleteResponse) for outcome in outcomes)
        # A minute may end in between.
        assert answered in range(5, 11)
        assert len(one.llm.calls) == answered


def _services(models: Installation) -> Any:
    return models.harness.services["models"]


async def test_what_the_operator_allows_the_group_is_a_ceiling_too(served: Installation) -> None:
    served.llm.on(SMALL, route="chat")
    await group_limit(served.harness, model_calls_per_minute=1, monthly_cost_ceiling=9.5, max_models=1)
    above = await refusal(limit(served, monthly_cost_limit=10.0))
    assert (above.code, above.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["budget.monthly_cost_limit"])
    assert "9.5, the limit of your group (GetGroupLimits" in above.message
    await limit(served, pb.BudgetScope(model=CHAT), tokens_per_day=9_000_000)
    first = await served.usage().ListBudgets(pb.ListBudgetsRequest(page_size=1))
    whole = pb.ScopedBudget(scope=pb.BudgetScope(), ceiling=pb.Budget(monthly_cost_limit=9.5, calls_per_minute=1))
    assert list(first.budgets) == [whole]
    rest = await served.usage().ListBudgets(pb.ListBudgetsRequest(page_size=1, page_token=first.next_page_token))
    assert [each.scope.model for each in rest.budgets] == [CHAT]
    assert not rest.next_page_token
    await cap(served, "sales", monthly_cost_limit=8.0)
    state = await served.usage().GetBudget(pb.GetBudgetRequest())
    assert state.effective == pb.Budget(monthly_cost_limit=8.0, calls_per_minute=1)
    listed = await served.usage().ListBudgets(pb.ListBudgetsRequest())
    assert listed.budgets[0].ceiling == state.ceiling
    with pytest.raises(grpc.aio.AioRpcError) as error:
        # A minute may end between two of them.
        for _ in range(4):
            await complete(served)
    failure = read_refusal(error.value)
    assert (failure.reason, failure.metadata) == (
        "BUDGET_EXCEEDED",
        {"budget": "calls_per_minute", "set_by": "group_limits"},
    )
    await complete(served, BOB)
    await group_limit(served.harness, model_calls_per_minute=0)
    failure = await refused(served)
    assert failure.metadata == {"budget": "calls_per_minute", "set_by": "group_limits"}
    # The group's own admins may have lowered it.
    assert "operator" not in failure.message
    assert "GetGroupLimits" in failure.message
    await group_limit(served.harness, model_calls_per_minute=None)
    await complete(served)


async def test_models_of_the_groups_own_are_limited(served: Installation) -> None:
    await lower(served.harness, max_models=1)
    made = [
        model_pb2.CreateModelRequest(
            model=model_pb2.Model(
                name=f"team/{number}",
                provider=model_pb2.PROVIDER_OPENAI,
                capabilities=model_pb2.Capabilities(chat=True),
            )
        )
        for number in range(3)
    ]
    outcomes = await asyncio.gather(*map(served.models().CreateModel, made), return_exceptions=True)
    failed = [read_refusal(each) for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert [(each.reason, each.metadata) for each in failed] == [
        ("QUOTA_EXCEEDED", {"quota": "max_models", "limit": "1", "used": "1"})
    ] * 2
    await served.models(BOB).CreateModel(made[0])
