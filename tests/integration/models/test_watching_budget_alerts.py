"""Watching the alerts of a group: each once, in order, and never those of another group."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from coxswain.client import AsyncClient
from coxswain.models.v1 import usage_pb2 as pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.models.domain.budget import BudgetAlert, Scope
from services.models.repositories.budgets import BudgetRepository
from services.models.tables import budget_alerts
from tests.integration.models.support import CHAT, REASONER, Installation, ask, read_refusal, serve_models
from tests.support.harness import ALICE, BOB
from tests.support.llm_script import Reply, Usage

CAROL = "dev:carol:sales=operator"
SMALL = Reply(text="Answer", usage=Usage(prompt_tokens=60, completion_tokens=40))


async def limit(models: Installation, scope: pb.BudgetScope | None = None, **limits: Any) -> None:
    budget = pb.Budget(**limits, alert_share=0.5)
    await models.usage().SetBudget(pb.SetBudgetRequest(budget=budget, scope=scope))


def watch(models: Installation, after: int | None = None, bearer: str = CAROL) -> Any:
    return models.usage(bearer).WatchBudgetAlerts(pb.WatchBudgetAlertsRequest(after_sequence=after))


async def taken(call: Any, count: int) -> list[pb.WatchBudgetAlertsResponse]:
    """Return the next responses of a watch."""
    async with asyncio.timeout(60):
        return [await call.read() for _ in range(count)]


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(60):
            while True:
                assert await call.read() is not grpc.aio.EOF
    return read_refusal(caught.value)


async def test_a_watch_tells_each_alert_once_and_is_continued_where_it_ended(served: Installation) -> None:
    served.llm.on(SMALL, route="chat")
    await limit(served, tokens_per_day=150)
    await limit(served, pb.BudgetScope(model=CHAT, subject="dev|alice"), tokens_per_month=350)
    watching = watch(served)
    assert await taken(watching, 1) == [pb.WatchBudgetAlertsResponse()]
    foreign = watch(served, bearer=BOB)
    await taken(foreign, 1)
    foreign_news = asyncio.ensure_future(foreign.read())
    await served.inference().Complete(ask(CHAT))
    [first] = await taken(watching, 1)
    assert (first.sequence, first.alert.sequence, first.alert.limit) == (1, 1, "tokens_per_day")
    assert (first.alert.used, first.alert.allowed, first.alert.scope) == (100, 150, pb.BudgetScope())
    await served.inference().Complete(ask(CHAT))
    [second] = await taken(watching, 1)
    assert (second.sequence, second.alert.limit, second.alert.used) == (2, "tokens_per_month", 200)
    watching.cancel()
    # Meanwhile nobody watches.
    await limit(served, pb.BudgetScope(model=REASONER), tokens_per_day=150)
    await limit(served, tokens_per_day=100_000)
    await served.inference(CAROL).Complete(ask(REASONER))
    again = watch(served, 2)
    begun, third = await taken(again, 2)
    assert (begun.sequence, begun.HasField("alert")) == (2, False)
    assert (third.sequence, third.alert.scope) == (3, pb.BudgetScope(model=REASONER))
    everything = await taken(watch(served, 0), 4)
    assert [response.alert for response in everything[1:]] == [first.alert, second.alert, third.alert]
    listed = await served.usage().ListBudgetAlerts(pb.ListBudgetAlertsRequest())
    assert list(listed.alerts) == [third.alert, second.alert, first.alert]
    assert not foreign_news.done()
    # A position of one group says nothing in another one.
    for bearer, after in ((CAROL, 4), (BOB, 1), (CAROL, -1), (CAROL, 2**63 - 1)):
        failure = await refused(watch(served, after, bearer))
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["after_sequence"])
    await served.harness.services["models"].drain()
    ended = await refused(again)
    assert (ended.code, ended.retry_after is not None) == (grpc.StatusCode.UNAVAILABLE, True)
    foreign_news.cancel()
    foreign.cancel()


async def test_alerts_that_replicas_store_at_once_all_come_in_order(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, database_url=database_url, budget_refresh_seconds=0.05) as models:
        watching = watch(models)
        await taken(watching, 1)
        service: Any = models.harness.services["models"]
        url = service._database.url.render_as_string(hide_password=False)
        others = [Database(url, "models", null_pool=True) for _ in "ab"]

        async def store(number: int) -> None:
            # Each replica finds that the share is used.
            for database in others:
                scope, period = Scope(f"m{number}"), "2026-01-31"
                alert = BudgetAlert(f"{number}", scope, "daily_cost_limit", period, 1, 1, 1, False, utc_now())
                async with database.write() as connection:
                    alerts = BudgetRepository(connection)
                    await alerts.add_alert("sales", alert)
                    if number % 3 == 0 and database is others[0]:
                        # As the release before stores them.
                        await connection.execute(
                            update(budget_alerts).where(budget_alerts.c.id == alert.id).values(sequence=0)
                        )

        await asyncio.gather(*map(store, range(12)))
        told = await taken(watching, 12)
        assert {response.alert.scope.model for response in told} == {f"m{number}" for number in range(12)}
        sequences = [response.sequence for response in told]
        assert sequences == sorted(set(sequences))
        late = asyncio.ensure_future(watching.read())
        assert [response.alert for response in (await taken(watch(models, 0, ALICE), 13))[1:]] == [
            response.alert for response in told
        ]
        assert not late.done()
        async with AsyncClient(models.harness.address, token=CAROL) as client:
            followed = client.watch_budget_alerts(sequences[-2])
            assert [(await anext(followed)).sequence for _ in "ab"] == sequences[-2:]
            await followed.aclose()
        watching.cancel()
        await asyncio.gather(late, return_exceptions=True)
        for database in others:
            await database.close()
