"""Webhooks on the command line, against real services."""

import pytest

from tests.integration.client.command_line import Run, rows
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_webhooks_are_made_shown_changed_retried_and_deleted(run_in_own_group: Run, crew_file: str) -> None:
    run = run_in_own_group
    assert (await run("apply", "-f", crew_file)).exit_code == 0
    async with WebhookReceiver() as receiver:
        made = await run(
            *("webhooks", "create", f"{receiver.url}/group", "--kind", "execution_queued", "--label", "team=sales"),
            *("--description", "for sales", "--json"),
        )
        [created] = rows(made)
        webhook_id = created["webhook"]["id"]
        assert created["signing_key"].startswith("whsec_")
        listed = await run("webhooks")
        assert webhook_id in listed.stdout
        assert "whsec_" not in listed.stdout
        shown = (await run("webhooks", "show", webhook_id)).stdout
        assert all(text in shown for text in (f"{receiver.url}/group", "execution_queued", "team=sales", "for sales"))
        started = await run(
            *("run", "brief", "-i", "text=x", "--detach", "--label", "team=sales"),
            *("--webhook", f"{receiver.url}/own", "--webhook-kind", "execution_queued"),
        )
        assert started.exit_code == 0, started.stderr
        assert "whsec_" in started.stderr
        execution_id = started.stdout.strip()
        for path in ("/group", "/own"):
            assert [each.event for each in await receiver.has(1, path)] == [(execution_id, 1)]
        [[own]] = rows(await run("webhooks", "list", "--execution", execution_id, "--json"))
        assert own["execution_id"] == execution_id
        assert rows(await run("webhooks", "list", "--single-executions", "--json")) == [[own]]
        [[delivery]] = rows(await run("webhooks", "deliveries", webhook_id, "--json"))
        table = (await run("webhooks", "deliveries", webhook_id, "--execution", execution_id)).stdout
        assert delivery["id"] in table
        assert "execution_queued" in table
        assert (await run("webhooks", "retry", delivery["id"])).exit_code == 0
        assert (await receiver.has(2, "/group"))[1].body["id"] == delivery["id"]
    rotated = await run("webhooks", "rotate", webhook_id, "--keep-former", "0h")
    assert rotated.stdout.strip() not in {"", created["signing_key"]}
    changed = await run("webhooks", "update", webhook_id, "--paused", "--all-kinds", "--description", "")
    assert changed.exit_code == 0, changed.stderr
    [paused] = rows(await run("webhooks", "show", webhook_id, "--json"))
    assert (paused["paused"], paused.get("kinds", []), paused["labels"]) == (True, [], {"team": "sales"})
    assert (await run("webhooks", "update", webhook_id)).exit_code == 2
    assert (await run("run", "brief", "-i", "text=x", "--webhook-kind", "execution_queued")).exit_code == 2
    assert (await run("webhooks", "create", "https://10.0.0.1/")).exit_code == 13
    assert (await run("webhooks", "delete", webhook_id, "--yes")).exit_code == 0
    assert (await run("webhooks")).stdout.strip() == "no webhooks"
