"""Members and tokens for machines on the command line, against real services."""

from tests.integration.client.command_line import Run, rows


async def test_members_are_invited_listed_revoked_and_removed(run: Run) -> None:
    invited = await run("member", "set", "dev|dave", "editor")
    assert invited.stdout == "dev|dave is invited as editor\n", invited.stderr
    assert "editor (invited)" in (await run("member", "list")).stdout
    revoked = await run("member", "revoke", "dev|dave", "--yes")
    assert revoked.stdout == (
        "revoked in the group; executions and schedules that lost their grant: 0; tokens they had made that ended: 0\n"
    )
    [answer] = rows(await run("member", "revoke", "dev|dave", "--yes", "--json"))
    assert "revoke_time" in answer
    assert (await run("member", "revoke", "dev|dave", "--everywhere", "--yes")).exit_code != 0
    assert (await run("member", "remove", "dev|dave", "--yes")).stdout == "dev|dave removed\n"
    wrong = await run("member", "set", "dev|dave", "emperor")
    assert (
        wrong.exit_code,
        "choose operator, editor or admin" in " ".join(wrong.stderr.replace("│", " ").split()),
    ) == (2, True)


async def test_a_token_is_shown_once_used_listed_and_revoked(run: Run) -> None:
    made = await run("tokens", "create", "nightly-build", "--role", "editor", "--for", "12h")
    token = made.stdout.strip()
    assert token.startswith("coxt_"), made.stderr
    assert "token|sales/nightly-build with the role editor until" in " ".join(made.stderr.split())
    who = rows(await run("whoami", "--json", token=token))
    assert who[0]["principal"]["subject"] == "token|sales/nightly-build"
    listed = await run("tokens", "list")
    assert "nightly-build" in listed.stdout
    assert token not in listed.stdout
    assert (await run("tokens", "revoke", "nightly-build", "--yes")).stdout == "nightly-build revoked\n"
    assert (await run("tokens", "list")).stdout == "no tokens\n"
    assert (await run("tokens", "create", "b", "--for", "soon")).exit_code == 2
