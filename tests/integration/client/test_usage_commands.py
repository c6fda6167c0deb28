"""Usage and limits on the command line, against real services."""

import asyncio
from typing import Any

from coxswain.client.blocking import Client
from coxswain.models.v1.inference_pb2 import CompleteRequest, Completion, ContentPart, Message, MessageRole
from tests.integration.client.command_line import Run, rows
from tests.support.harness import ALICE

ROOT = "dev:root:ops=admin,platform_admin"


def said(result: Any) -> str:
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


def call_model(address: str) -> None:
    """Call a model as a crew's host does."""
    content = ContentPart(material="The keeper lit the lamp. The storm went on all night long.")
    message = Message(role=MessageRole.MESSAGE_ROLE_USER, content=[content])
    completion = Completion(model="offline/extract", messages=[message], labels={"crew": "brief"})
    with Client(address, token=ALICE) as client:
        client.inference.Complete(CompleteRequest(completion=completion))


async def test_what_was_used_is_summed_by_what_is_asked_for(run: Run) -> None:
    assert said(await run("usage")) == "nothing used"
    await asyncio.to_thread(call_model, run.address)
    [found] = rows(await run("usage", "--by", "crew", "--by", "model", "--crew", "brief", "--json"))
    assert [(row["model"], row["crew"], row["calls"]) for row in found] == [("offline/extract", "brief", "1")]
    shown = said(await run("usage", "--by", "crew", "--by", "subject", "--by", "day", "--since", "1d"))
    assert shown.startswith("crew subject day calls input cached output reasoning cost brief dev|alice 20")
    assert said(await run("usage", "--label", "crew=poem")) == "nothing used"


async def test_limits_are_set_shown_listed_and_removed(run: Run) -> None:
    assert said(await run("budget", "list")) == "no limits"
    words = said(await run("budget", "set", "--monthly-cost", "200", "--minute-cost", "2.5", "--alert-share", "0.8"))
    assert words == "$200.00 a month, $2.50 a minute, alert at 80%"
    capped = await run(
        "budget", "set", "--ceiling-of", "sales", "--daily-tokens", "5000", "--model", "m", "--json", token=ROOT
    )
    assert rows(capped) == [{"tokens_per_day": "5000"}]
    shown = said(await run("budget", "show"))
    assert "$ a month $200.00 $0.00" in shown
    listed = said(await run("budget", "list"))
    assert listed == (
        "model subject kind limits all all own $200.00 a month, $2.50 a minute, alert at 80% "
        "m all ceiling 5,000 tokens a day"
    )
    for nothing in ([], ["--alert-share", "0.5"], ["--model", "m"], ["--ceiling-of", "sales"]):
        refused = await run("budget", "set", *nothing, token=ROOT if "--ceiling-of" in nothing else "")
        assert refused.exit_code == 2
        assert "give at least one limit" in refused.stderr
    zero = await run("budget", "set", "--monthly-cost", "0", "--alert-share", "0.5")
    assert (zero.exit_code, "or remove the limits with `coxswain budget delete`" in zero.stderr) == (13, True)
    assert said(await run("budget", "list")) == listed
    assert said(await run("budget", "delete", "--yes")) == "removed"
    assert said(await run("budget", "alerts")) == "no alerts"
    [entries] = rows(await run("budget", "list", "--json"))
    assert [entry["scope"] for entry in entries] == [{"model": "m"}]


async def test_mistakes_are_named(run: Run) -> None:
    for arguments, hint in [
        (["usage", "--by", "moon"], "give one of model, execution, crew, subject, day and label=KEY"),
        (["usage", "--since", "long"], "give hours or days"),
        (["usage", "--label", "x"], "is not KEY=VALUE"),
    ]:
        result = await run(*arguments)
        assert result.exit_code == 2
        assert hint in " ".join(result.stderr.replace("│", " ").split())
    denied = await run("budget", "set", "--ceiling-of", "sales", "--minute-calls", "1")
    assert denied.exit_code == 17
