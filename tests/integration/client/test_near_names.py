"""A name that is not known is answered with the ones near it, whatever it is the name of."""

import pytest
import pytest_asyncio

from tests.integration.client.command_line import Run

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def run(run_in_own_group: Run) -> Run:
    return run_in_own_group


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _a_crew(run: Run, crew_file: str) -> None:
    assert (await run("apply", "-f", crew_file)).exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        ["run", "breif"],
        ["run", "BRIEF"],
        ["crews", "get", "breif"],
        ["crews", "delete", "breif", "--yes"],
        ["executions", "--crew", "breif"],
        ["memory", "search", "words", "--crew", "breif"],
        ["schedule", "create", "x", "--cron", "0 0 1 1 *", "--crew", "breif"],
    ],
    ids=" ".join,
)
async def test_a_crew(run: Run, command: list[str]) -> None:
    failed = await run(*command)
    assert (failed.exit_code, failed.stdout) == (15, "")
    assert "did you mean 'brief'?" in failed.stderr


async def test_a_secret(run: Run) -> None:
    assert (await run("secret", "put", "llm/openai", "--origin", "https://api.openai.com", stdin="v")).exit_code == 0
    assert "did you mean 'llm/openai'?" in (await run("secret", "delete", "llm/opnai", "--yes")).stderr


@pytest.mark.parametrize("command", [["source", "get", "biling"], ["list", "--source", "biling"], ["test", "biling/x"]])
async def test_a_source_of_tools(run: Run, command: list[str]) -> None:
    # It is stored, and says that it cannot be used: there is no such server.
    assert (await run("tool", "source", "create", "billing", "--mcp", "https://mcp.example.com/mcp")).exit_code == 1
    assert "did you mean 'billing'?" in (await run("tool", *command)).stderr


async def test_a_webhook_by_an_id_with_a_slip(run: Run) -> None:
    made = await run("webhooks", "create", "https://example.com/hook")
    webhook_id = made.stderr.split("webhook ")[1].split()[0]
    slip = webhook_id[:-1] + ("0" if webhook_id[-1] != "0" else "1")
    assert f"did you mean '{webhook_id}'?" in (await run("webhooks", "show", slip)).stderr
    # All ids of one hour begin alike.
    other = webhook_id[:14] + "7000-8000-000000000000"
    assert "did you mean" not in (await run("webhooks", "show", other)).stderr


async def test_a_group_of_ones_own(run: Run) -> None:
    [group] = [part.split("=")[0] for part in run.token.split(":")[2:]]
    failed = await run("whoami", "--group", group[:-1])
    assert (failed.exit_code, f"did you mean '{group}'?" in failed.stderr) == (17, True)


async def test_a_name_that_nothing_is_near_gets_the_command_that_lists(run: Run) -> None:
    said = (await run("run", "zzzzzz")).stderr
    assert "did you mean" not in said
    assert "`coxswain crews` lists what there is" in said


async def test_who_may_not_administer_the_platform_learns_who_may(run: Run) -> None:
    failed = await run("groups", "list")
    assert failed.exit_code == 17
    said = " ".join(failed.stderr.split())
    assert "ask a platform admin of the installation" in said
    assert "COXSWAIN_AUTH_PLATFORM_ADMINS" in said
    assert "platform_admin in it" in said
