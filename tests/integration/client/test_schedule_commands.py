"""Schedules on the command line, against real services."""

import asyncio
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import Result

from tests.integration.client.command_line import CREW, Run, rows
from tests.support.harness import BOB

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Never fires during a test.
NEW_YEAR = "0 0 1 1 *"
UNKNOWN_ID = "0198c0de-0000-7000-8000-000000000000"


@pytest.fixture
def run(run_in_own_group: Run) -> Run:
    return run_in_own_group


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _a_crew(run: Run, crew_file: str) -> None:
    assert (await run("apply", "-f", crew_file)).exit_code == 0


async def create(run: Run, name: str = "morning", *more: str) -> Result:
    return await run("schedule", "create", name, "--cron", NEW_YEAR, "--crew", "brief", "-i", "text=a", *more)


async def stored(run: Run, name: str = "morning") -> Any:
    [schedule] = rows(await run("schedule", "get", name, "--json"))
    return schedule


def said(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


def refused(result: Result, exit_code: int) -> str:
    assert (result.exit_code, result.stdout) == (exit_code, "")
    return " ".join(result.stderr.replace("│", " ").split())


async def test_a_schedule_is_fired_by_hand_and_does_not_overlap_itself(run: Run, crew_file: str) -> None:
    assert (await run("apply", "-f", crew_file)).exit_code == 0
    schedule = ("schedule", "create", "yearly", "--cron", "0 0 1 1 *", "--crew", "brief", "-i", "text=x")
    assert (await run(*schedule, "--overlap", "skip")).exit_code == 0
    execution_id = (await run("schedule", "fire", "yearly")).stdout.strip()
    again = await run("schedule", "fire", "yearly")
    assert (again.exit_code, execution_id in again.stderr) == (16, True)
    key = ("run", "brief", "-i", "text=x", "--detach", "--key", "k", "--overlap")
    assert (await run(*key, "skip")).exit_code == 0
    assert (await run(*key, "skip")).exit_code == 16
    assert (await run(*key, "queue")).exit_code == 0
    assert (await run(*key, "cancel-old")).exit_code == 0
    assert len(rows(await run("executions", "--state", "cancelled", "--json"))[0]) == 2


async def test_limits_of_what_a_schedule_starts_are_set_changed_and_removed(run: Run) -> None:
    await create(run, "morning", "--max-tokens", "500", "--max-tool-calls", "3")
    assert (await stored(run))["start"]["limits"] == {"max_tokens": "500", "max_tool_calls": "3"}
    assert "limits 500 tokens, 3 tool calls" in said(await run("schedule", "get", "morning"))
    said(await run("schedule", "update", "morning", "--max-tokens", "900"))
    assert (await stored(run))["start"]["limits"] == {"max_tokens": "900", "max_tool_calls": "3"}
    said(await run("schedule", "update", "morning", "--no-limits", "--max-model-calls", "7"))
    assert (await stored(run))["start"]["limits"] == {"max_model_calls": "7"}


async def test_a_schedule_is_created_listed_shown_and_deleted(run: Run) -> None:
    assert said(await run("schedule", "list")) == "no schedules"
    created = await create(run, "morning", "--time-zone", "Europe/Zurich", "--label", "who=me", "--within", "1.5")
    schedule = await stored(run)
    assert said(created).startswith(f"morning created, id {schedule['id']}: fires at 20")
    assert said(created).endswith("-01-01 00:00+01:00")
    listed = (await run("schedule", "list")).stdout
    [line] = [line for line in listed.splitlines() if "morning" in line]
    assert f"{NEW_YEAR}  20" in line
    assert line.endswith("+01:00  on     Europe/Zurich")
    shown = said(await run("schedule", "get", schedule["id"]))
    assert f"crew brief newest revision ({schedule['start']['crew_id']})" in shown
    for text in ("within 1.5 s", "labels who=me", "acts as the group, for dev|alice", "input text a"):
        assert text in shown
    assert said(await run("schedule", "list", token=BOB)) == "no schedules"

    assert "this would delete the schedule morning; repeat with --yes" in refused(
        await run("schedule", "delete", "morning"), 2
    )
    assert said(await run("schedule", "delete", "morning", "--yes")) == "morning deleted"
    assert said(await run("schedule", "list")) == "no schedules"


@pytest.mark.parametrize(("answer", "exit_code", "left"), [("y", 0, 0), ("n", 1, 1)])
async def test_on_a_terminal_deletion_asks_by_a_name_that_commands_nothing(
    run: Run, answer: str, exit_code: int, left: int
) -> None:
    await create(run, "mor\x9b2Jning")
    schedule = await stored(run, "mor\x9b2Jning")
    person, terminal = os.openpty()
    os.write(person, f"{answer}\n".encode())
    address = run.address
    deletion = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "coxswain.client", "--address", address, "--token", run.token],
        *["schedule", "delete", schedule["id"]],
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, output = await deletion.communicate()
    os.close(terminal)
    os.close(person)
    assert deletion.returncode == exit_code, output
    assert "Delete the schedule mor\ufffd2Jning?" in output.decode()
    [listed] = rows(await run("schedule", "list", "--json"))
    assert len(listed) == left


async def test_a_paused_schedule_has_no_next_time_until_it_is_resumed(run: Run) -> None:
    await create(run)
    assert said(await run("schedule", "pause", "morning")) == "morning: paused"
    assert "next_fire_time" not in await stored(run)
    shown = said(await run("schedule", "get", "morning"))
    assert "state paused" in shown
    assert "next 20" not in shown
    resumed = said(await run("schedule", "resume", "morning"))
    assert resumed.startswith("morning: fires at 20")
    assert resumed.endswith("-01-01 00:00+00:00")
    assert "paused" not in await stored(run)
    assert "noon created" in said(await create(run, "noon", "--paused"))
    assert (await stored(run, "noon"))["paused"] is True


CHANGES: list[tuple[list[str], dict[str, Any]]] = [
    (["--name", "evening"], {"name": "evening"}),
    (["--cron", "0 0 2 1 *"], {"cron": "0 0 2 1 *"}),
    (["--time-zone", "Europe/Zurich"], {"time_zone": "Europe/Zurich"}),
    (["--paused"], {"paused": True}),
    (["--crew-revision", "1"], {"start.crew_revision": 1}),
    (["--model", "offline/extract"], {"start.model": "offline/extract"}),
    (["--priority", "0"], {"start.priority": None}),
    (["--within", "0"], {"start.timeout": None}),
    (["-i", "count:=2"], {"start.inputs": {"text": "a", "zebra": "b", "count": 2}}),
    (["--drop-input", "zebra"], {"start.inputs": {"text": "a"}}),
    (["--label", "who=you", "--drop-label", "why"], {"start.labels": {"who": "you"}}),
]


def flat(schedule: dict[str, Any]) -> dict[str, Any]:
    start = schedule.pop("start")
    return schedule | {f"start.{name}": value for name, value in start.items()}


@pytest.mark.parametrize(("arguments", "changes"), CHANGES, ids=[arguments[0] for arguments, _ in CHANGES])
async def test_a_changed_option_leaves_the_others_alone(
    run: Run, arguments: list[str], changes: dict[str, Any]
) -> None:
    await create(
        run, "morning", "-i", "zebra=b", "--label", "who=me", "--label", "why=x", "--priority", "7", "--within", "60"
    )
    before = flat(await stored(run))
    result = await run("schedule", "update", "morning", *arguments)
    assert f"{changes.get('name', 'morning')} updated" in said(result)
    after = flat(await stored(run, before["id"]))
    times = {"next_fire_time", "update_time", "revision"}
    expected = {name: value for name, value in (before | changes).items() if value is not None and name not in times}
    assert {name: value for name, value in after.items() if name not in times} == expected


def write_crew(path: str, name: str) -> None:
    """A crew that asks for another input."""
    Path(path).write_text(CREW.replace("name: brief", f"name: {name}").replace("{text}", "{topic}"))


async def test_another_crew_starts_at_its_own_newest_revision(run: Run, crew_file: str) -> None:
    await create(run, "morning", "--crew-revision", "1")
    write_crew(crew_file, "other")
    [applied] = rows(await run("apply", "-f", crew_file, "--json"))
    missing = refused(await run("schedule", "update", "morning", "--crew", "other"), 13)
    assert "topic" in missing
    result = await run("schedule", "update", "morning", "--crew", "other", "-i", "topic=b")
    assert result.stderr.strip() == "warning: no text of other uses the input 'text'"
    start = (await stored(run))["start"]
    assert start["crew_id"] == applied["crew"]["id"]
    assert "crew_revision" not in start


async def test_inputs_that_nothing_uses_are_warned_of(run: Run) -> None:
    result = await create(run, "morning", "-i", "txet=b")
    assert result.stderr.strip() == "warning: no text of brief uses the input 'txet'; did you mean 'text'?"
    assert (await stored(run))["start"]["inputs"] == {"text": "a", "txet": "b"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cron", "61 * * * *"], "--cron"),
        (["--cron", "every day"], "--cron"),
        (["--time-zone", "Europe/Atlantis"], "--time-zone"),
    ],
)
async def test_what_is_no_time_is_refused_by_its_field(run: Run, arguments: list[str], says: str) -> None:
    assert says in refused(await create(run, "morning", *arguments), 13)
    assert said(await run("schedule", "list")) == "no schedules"
    await create(run)
    assert says in refused(await run("schedule", "update", "morning", *arguments), 13)
    assert (await stored(run))["cron"] == NEW_YEAR


async def test_missing_inputs_are_named_when_it_is_created(run: Run) -> None:
    result = await run("schedule", "create", "morning", "--cron", NEW_YEAR, "--crew", "brief")
    told = refused(result, 13)
    assert "--input text: is missing" in told
    assert "{text}" in told


async def test_a_second_schedule_of_a_name_is_refused(run: Run) -> None:
    await create(run)
    assert "morning" in refused(await create(run), 16)


@pytest.mark.parametrize(
    "command", [["get"], ["pause"], ["resume"], ["update", "--paused"], ["delete", "--yes"]], ids=lambda parts: parts[0]
)
async def test_an_unknown_name_is_refused_with_those_near_it(run: Run, command: list[str]) -> None:
    await create(run, "morning")
    await create(run, "moaning")
    error = refused(await run("schedule", command[0], "mornin", *command[1:]), 15)
    assert 'there is no schedule "mornin" in your group' in error
    assert "did you mean 'morning' or 'moaning'?" in error
    error = refused(await run("schedule", command[0], "x", *command[1:]), 15)
    assert 'there is no schedule "x" in your group (NOT_FOUND) `coxswain schedule` lists what there is' in error
    assert "NOT_FOUND" in refused(await run("schedule", command[0], UNKNOWN_ID, *command[1:]), 15)
    assert "morning" in refused(await run("schedule", command[0], "morning", *command[1:], token=BOB), 15)


async def test_changes_that_mean_nothing_are_refused(run: Run) -> None:
    await create(run)
    assert "nothing to change" in refused(await run("schedule", "update", "morning"), 2)
    assert "the schedule has no input 'txet'" in refused(
        await run("schedule", "update", "morning", "--drop-input", "txet"), 2
    )
    assert "the schedule has no label 'who'" in refused(
        await run("schedule", "update", "morning", "--drop-label", "who"), 2
    )


async def when_it_has(run: Run, field: str) -> Any:
    """The schedule as soon as it has a field."""
    async with asyncio.timeout(60):
        while field not in (schedule := await stored(run)):
            pass
    return schedule


async def test_what_a_schedule_has_started_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(run, "morning", "--time-zone", "Europe/Zurich")
    await create(run, "noon", "--paused")
    await run("run", "brief", "-i", "text=a", "--detach")
    assert rows(await run("executions", "--schedule", "morning", "--json")) == [[]]

    due = datetime.fromisoformat((await stored(run))["next_fire_time"])
    monkeypatch.setattr("services.orchestrator.usecases.scheduler.utc_now", lambda: due + timedelta(seconds=1))
    schedule = await when_it_has(run, "last_execution_id")
    execution_id = schedule["last_execution_id"]
    for reference in ("morning", schedule["id"]):
        [[execution]] = rows(await run("executions", "--schedule", reference, "--json"))
        assert (execution["id"], execution["schedule_id"]) == (execution_id, schedule["id"])
    assert rows(await run("executions", "--schedule", "noon", "--json")) == [[]]
    assert f"schedule {schedule['id']}" in said(await run("get", execution_id))
    shown = said(await run("schedule", "get", "morning"))
    assert f"last {due.year + 1}-01-01 00:00+01:00 last execution {execution_id}" in shown
    [line] = [line for line in (await run("schedule", "list")).stdout.splitlines() if "morning" in line]
    assert line.split()[-1] == execution_id

    await run("schedule", "delete", "morning", "--yes")
    [[execution]] = rows(await run("executions", "--schedule", schedule["id"], "--json"))
    assert execution["id"] == execution_id
    assert 'there is no schedule "morning"' in refused(await run("executions", "--schedule", "morning"), 15)


async def test_why_a_schedule_started_nothing_is_shown(
    run: Run, crew_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(run)
    write_crew(crew_file, "brief")
    await run("apply", "-f", crew_file)
    due = datetime.fromisoformat((await stored(run))["next_fire_time"])
    monkeypatch.setattr("services.orchestrator.usecases.scheduler.utc_now", lambda: due)
    error = (await when_it_has(run, "last_error"))["last_error"]
    assert "topic" in error["message"]
    shown = said(await run("schedule", "get", "morning"))
    assert f"last error {error['message']} ({error['reason']})" in shown
    assert f" failed: {error['reason']} " in said(await run("schedule", "list"))
    mended = await run("schedule", "update", "morning", "-i", "topic=b", "--drop-input", "text")
    assert (mended.exit_code, mended.stderr) == (0, "")
