"""The commands about limits of groups, against real services."""

from tests.integration.client.command_line import Run
from tests.support.group_limits import OPERATOR


async def test_an_operator_sets_limits_and_the_group_sees_them(run: Run) -> None:
    made = await run("limits", "set", "sales", "calls_per_minute=600", "max_crews=0", token=OPERATOR)
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines() == ["calls_per_minute: 600 (set for the group)", "max_crews: 0 (set for the group)"]
    shown = await run("limits", "show", token="dev:alice:sales=operator")
    rows = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}
    assert rows["calls_per_minute"][0] == "600"
    assert rows["max_crews"][:1] == ["0"]
    assert rows["max_models"] == ["unlimited", "default"]
    assert (await run("limits", "show", "sales", token=OPERATOR)).stdout.splitlines()[0] == shown.stdout.splitlines()[0]
    lifted = await run("limits", "set", "sales", "calls_per_minute=default", "max_crews=unlimited", token=OPERATOR)
    assert lifted.stdout.splitlines() == [
        "calls_per_minute: unlimited (default)",
        "max_crews: unlimited (set for the group)",
    ]


async def test_what_the_groups_admins_have_lowered_is_named_and_undone_by_an_operator(run: Run) -> None:
    lowered = await run("limits", "lower", "max_crews=2", token="dev:alice:sales=admin")
    assert lowered.stdout.splitlines() == ["max_crews: 2 (lowered by the group's admins)"]
    shown = await run("limits", "show", token="dev:alice:sales=admin")
    assert "2 lowered by the group's admins" in " ".join(shown.stdout.split())
    raised = await run("limits", "set", "sales", "max_crews=5", token=OPERATOR)
    assert raised.stdout.splitlines() == ["max_crews: 2 (lowered by the group's admins)"]
    cleared = await run("limits", "set", "sales", "--clear-lowered", "max_crews", token=OPERATOR)
    assert cleared.stdout.splitlines() == ["max_crews: 5 (set for the group)"]
    for wrong in ([], ["--clear-lowered", "max_boats"]):
        refused = await run("limits", "set", "sales", *wrong, token=OPERATOR)
        assert refused.exit_code == 2, refused.output
    above = await run("limits", "lower", "max_crews=6", token="dev:alice:sales=admin")
    assert above.exit_code == 10 + 3
    assert "error: max_crews: is 6, above the operator's 5" in " ".join(above.stderr.split()), above.stderr
    await run("limits", "lower", "max_crews=3", token="dev:alice:sales=admin")
    undone = await run("limits", "lower", "max_crews=default", token="dev:alice:sales=admin")
    assert undone.stdout.splitlines() == ["max_crews: 5 (the operator's limit)"]
    await run("limits", "set", "sales", "max_crews=default", token=OPERATOR)


async def test_what_is_not_a_limit_or_not_allowed_is_said(run: Run) -> None:
    numbers = ("-1", "1.5", "many", "1e30", "nan")
    for wrong in ("max_boats=1", "max_crews", *(f"max_crews={number}" for number in numbers)):
        refused = await run("limits", "set", "sales", wrong, token=OPERATOR)
        assert refused.exit_code == 2, refused.output
    denied = await run("limits", "set", "sales", "max_crews=9", token="dev:alice:sales=admin")
    assert denied.exit_code == 10 + 7
    assert "ROLE_REQUIRED" in denied.stderr
