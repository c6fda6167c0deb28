"""Crews, models, groups and single memories on the command line, against real services."""

import json
import re
from pathlib import Path

import pytest
import yaml

from coxswain.client import load_crew
from coxswain.client.cli.models import create
from tests.integration.client.command_line import Run, rewrite, rows

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.asyncio(loop_scope="module")
EVERYTHING = """\
name: everything
description: |-
  Two lines
  of text
agents:
  reader: {role: Reader, goal: Read, max_iterations: 3, max_execution_time: 90s}
tasks:
  extract:
    description: Read {text}
    expected_output: "\u202ean answer"
    agent: reader
    output_schema: {type: object, properties: {n: {type: integer}}}
  sum:
    description: Sum up
    expected_output: a sum
    agent: reader
    context: [extract]
process: sequential
limits: {max_tokens: 5000}
memory: {enabled: true}
"""


@pytest.fixture
def run(run_in_own_group: Run) -> Run:
    return run_in_own_group


async def test_an_exported_crew_is_a_file_of_the_same_crew(run: Run, tmp_path: Path) -> None:
    file, exported = tmp_path / "crew.json", tmp_path / "exported.yaml"
    written = yaml.safe_load(EVERYTHING)
    written["tasks"]["sum"]["description"] = "Sum \x1b[2J up"
    file.write_text(json.dumps(written))
    applied = await run("apply", str(file))
    assert applied.exit_code == 0, applied.stderr
    document = (await run("crews", "export", "everything")).stdout
    assert not {"\x1b", "\u202e"} & set(document)
    exported.write_text(document)
    assert "description: |-\n  Two lines\n  of text\n" in document
    assert load_crew(exported).tasks[1].description == "Sum \x1b[2J up"
    [again] = rows(await run("apply", str(exported), "--json"))
    assert again["change"] == "unchanged"


async def test_a_crew_is_shown_compared_and_deleted(run: Run, crew_file: str) -> None:
    await run("apply", crew_file)
    shown = (await run("crews", "get", "brief")).stdout
    assert all(word in shown for word in ("revision 1", "inputs     text", "offline/extract", "Read {text}"))
    same = await run("crews", "diff", crew_file)
    assert same.exit_code == 0, same.stdout
    rewrite(crew_file, "Five", "Six")
    changed = await run("crews", "diff", crew_file)
    assert changed.exit_code == 1
    assert {"-    expected_output: Five sentences", "+    expected_output: Six sentences"} <= set(
        changed.stdout.splitlines()
    )
    await run("apply", crew_file)
    assert "+    expected_output: Six sentences" in (await run("crews", "diff", "brief")).stdout
    [listed] = rows(await run("crews", "--json"))
    assert [crew["revision"] for crew in listed] == [2]
    assert "repeat with --yes" in (await run("crews", "delete", "brief")).stderr
    assert (await run("crews", "delete", "brief", "-y")).stdout == "brief deleted\n"
    assert (await run("crew", "get", "brief")).exit_code == 15


async def test_a_crew_is_published_called_as_an_agent_and_unpublished(run: Run, crew_file: str) -> None:
    await run("apply", crew_file)
    wrong = await run("crews", "publish", "brief", "--text-input", "topic")
    assert (wrong.exit_code, "--text-input" in wrong.stderr) == (13, True), wrong.stderr
    published = await run("crews", "publish", "brief", "--default")
    assert published.stdout.startswith("brief published: revision 2, tenant ")
    [again] = rows(await run("crews", "publish", "brief", "--public-card", "--json"))
    assert published.stdout.split()[-1] == again["tenant"]
    [[listed]] = rows(await run("agents", "--json"))
    assert listed == again
    assert (listed["is_default"], listed["public_card"]) == (True, True)
    shown = (await run("agents")).stdout
    assert all(word in shown for word in ("brief", again["tenant"], "public"))
    [card] = rows(await run("agents", "card", "brief", "--json"))
    assert [one["tenant"] for one in card["supportedInterfaces"]] == [again["tenant"]] * 2
    assert "skill      brief" in (await run("agents", "card", again["tenant"])).stdout
    # A task that lacks its text waits for it.
    waiting = await run("agents", "send", "brief", "--input", "tone=dry", "--context-id", "talk")
    assert (waiting.exit_code, "missing: text" in waiting.stderr) == (1, True), waiting.stderr
    assert "context talk: input required" in waiting.stderr
    assert (await run("agents", "send", "brief", "Hello", "--task", "none")).exit_code == 15
    assert (await run("agents", "send", "brief")).exit_code == 2
    assert (await run("crews", "unpublish", "brief")).stdout == "brief unpublished: revision 4\n"
    assert "crews publish brief" in (await run("agents", "send", "brief", "Hello")).stderr
    [back] = rows(await run("crews", "publish", "brief", "--json"))
    assert (back["is_default"], back["tenant"] != again["tenant"]) == (True, True)


async def test_a_model_is_created_tried_disabled_and_deleted(run: Run, tmp_path: Path) -> None:
    made = await run("models", "create", "mine/extract", "--provider", "offline", "--can", "chat")
    assert made.exit_code == 0, made.stderr
    assert "mine/extract" in made.stdout
    assert (await run("models", "enable", "mine/extract")).stdout == "mine/extract is enabled\n"
    tried = await run("models", "test", "offline/extract")
    assert (tried.exit_code, "offline/extract answers in" in tried.stdout) == (0, True), tried.stderr
    assert "dimensions" in (await run("models", "test", "offline/embed")).stdout
    assert (await run("models", "disable", "mine/extract")).stdout == "mine/extract is disabled\n"
    [listed] = rows(await run("models", "--enabled", "--json"))
    assert "mine/extract" not in {model["name"] for model in listed}
    file = tmp_path / "model.yaml"
    file.write_text("provider: offline\ncontext_windw: 3\n")
    assert "did you mean 'context_window'" in (await run("models", "create", "mine/b", "-f", str(file))).stderr
    assert "expected chat," in (await run("models", "create", "mine/b", "--can", "fly")).stderr
    assert "expected one of offline" in (await run("models", "create", "mine/b", "--provider", "x")).stderr
    assert (await run("models", "delete", "mine/extract", "-y")).stdout == "mine/extract deleted\n"
    assert (await run("models", "mine/extract")).exit_code == 15


async def test_models_are_created_by_the_lines_that_help_and_page_show(run: Run) -> None:
    shown = f"{create.__doc__}{(ROOT / 'clients' / 'python' / 'README.md').read_text(encoding='utf-8')}"
    lines = re.findall(r"^ *coxswain (models create \S+ --[^#\n]*)", shown, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        made = await run(*line.split())
        assert made.exit_code == 0, made.stderr
    unknown = await run("models", "create", "local/other", "--provider", "ollama")
    assert unknown.exit_code == 13
    assert "--can chat" in unknown.stderr


async def test_groups_are_created_listed_and_deleted_by_platform_admins(run: Run) -> None:
    root = "dev:root:ops=admin,platform_admin"
    made = await run("groups", "create", "Sales", "--admin", "dev|zoe", token=root)
    group_id = made.stdout.strip()
    assert made.exit_code == 0, made.stderr
    [listed] = rows(await run("groups", "--json", token=root))
    assert {"id": group_id, "display_name": "Sales"}.items() <= listed[-1].items()
    assert "PERMISSION_DENIED" in (await run("groups")).stderr
    assert (await run("groups", "delete", group_id, "--yes", token=root)).stdout == f"{group_id} deleted\n"


async def test_single_memories_are_saved_and_deleted(run: Run, crew_file: str) -> None:
    await run("apply", crew_file)
    saved = await run("memory", "save", "-", "--crew", "brief", "--category", "lamps", stdin="The lamp was lit.")
    record_id = saved.stdout.strip()
    assert saved.exit_code == 0, saved.stderr
    assert "The lamp was lit." in (await run("memory", "search", "light", "--crew", "brief")).stdout
    assert "repeat with --yes" in (await run("memory", "delete", record_id)).stderr
    assert (await run("memory", "delete", record_id, "--yes")).stdout == "1 deleted\n"
    again = await run("memory", "delete", record_id, "--yes")
    assert (again.exit_code, again.stdout) == (1, "0 deleted\n")
